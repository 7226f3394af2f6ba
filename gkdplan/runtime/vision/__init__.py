"""What a vision-language model needs beside its decoder: tower, images and their pixels."""
