"""The teacher: on the ranks, behind a server, replicas of a Ray file, or the student itself."""

from collections.abc import Iterator

from gkdplan.swift.given import Given
from gkdplan.swift.said import Loss, Said

REPLICAS = "http://127.0.0.1:8001"


def teacher(given: Given) -> Iterator[Said | Loss]:
    """The table `[teacher]`, and what a server's answers ask of the loss."""
    server, replicas = given.flag("teacher_model_server"), given.text("model", "teacher")
    if server:
        model = given.text("teacher_model") or given.text("model")
        yield Said("teacher.model", model, "of whose vocabulary and template the server is")
        yield from _served(given, " ".join(server.values), server.label)
    elif replicas:
        num_gpus = given.command.groups["teacher"]
        yield Said("teacher.model", replicas, "of the group `teacher`")
        yield from _served(given, REPLICAS, f"serve it with vllm on its {num_gpus} GPUs")
    else:
        yield from _on_the_ranks(given)
    offload = given.flag("offload_teacher_model")
    if offload and given.truth("offload_teacher_model"):
        if server or replicas or given.flag("teacher_model") is None:
            yield Loss(offload, "no other model is on the ranks")
        else:
            yield Said("teacher.offload", "cpu", offload)


def _served(given: Given, url: str, source: str) -> Iterator[Said | Loss]:
    yield Said("teacher.server.url", url, source)
    top_k = given.count("gkd_logits_topk")
    if top_k is not None:
        yield Said("teacher.server.top_k", top_k, given.flag("gkd_logits_topk"))
    tag, temperature = given.flag("teacher_tag_key"), given.flag("temperature")
    if tag:
        yield Loss(tag, "for several teachers write teacher.server.urls and column")
    if temperature and given.number("temperature") != 1:
        yield Loss(temperature, "it is that of sampling alone: a teacher's server answers at 1")
    yield Said("distill.loss_temperature", 1.0, "a teacher's server answers at 1")


def _on_the_ranks(given: Given) -> Iterator[Said]:
    model, revision = given.text("teacher_model"), given.text("teacher_model_revision")
    if model is None:
        yield Said("teacher.self", "initial", "no teacher is named: the student as it starts")
    else:
        yield Said("teacher.model", model, given.flag("teacher_model"))
    if revision:
        yield Said("teacher.revision", revision, given.flag("teacher_model_revision"))
    top_k = given.count("gkd_logits_topk")
    if top_k is not None:
        yield Said("distill.payload", "top_k", given.flag("gkd_logits_topk"))
        yield Said("distill.top_k", top_k, given.flag("gkd_logits_topk"))
