"""The words of the GenAI conventions that are understood, in every spelling that is about.

Profile 1.41, the renamed one after it, and the older names that instrumentations still send.
Written as literals: the conventions' own package holds whichever names it has that day.
"""

from __future__ import annotations

from typing import Final

from agent_client.contract.tables import EVENT_TABLES

OPERATION: Final = "gen_ai.operation.name"
MODEL_OPERATIONS: Final = frozenset(
    {"chat", "completion", "embeddings", "fetch_response", "generate_content", "text_completion"}
)
AGENT_OPERATIONS: Final = frozenset({"create_agent", "invoke_agent", "invoke_workflow"})
TOOL_OPERATION: Final = "execute_tool"

# Older instrumentations say what a span is in a word of their own.
KIND_WORDS: Final = ("openinference.span.kind", "traceloop.span.kind", "llm.request.type")
OPERATION_OF_WORD: Final = {
    "agent": "invoke_agent",
    "chat": "chat",
    "completion": "text_completion",
    "embedding": "embeddings",
    "llm": "chat",
    "tool": TOOL_OPERATION,
    "workflow": "invoke_workflow",
}

# The facts that are read, by the newest of their names.
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
INPUT: Final = "gen_ai.usage.input_tokens"
OUTPUT: Final = "gen_ai.usage.output_tokens"
CACHE_READ: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE: Final = "gen_ai.usage.cache_write.input_tokens"
REASONING: Final = "gen_ai.usage.reasoning.output_tokens"
FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
FINISH: Final = "gen_ai.response.finish_reasons"
RESPONSE_ID: Final = "gen_ai.response.id"
SERVER: Final = "server.address"
PORT: Final = "server.port"
HTTP_STATUS: Final = "http.response.status_code"
ERROR_TYPE: Final = "error.type"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_TYPE: Final = "gen_ai.tool.type"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
AGENT_NAME: Final = "gen_ai.agent.name"
AGENT_VERSION: Final = "gen_ai.agent.version"
CONVERSATION: Final = "gen_ai.conversation.id"
OLDER: Final = {
    PROVIDER: ("gen_ai.system", "llm.provider", "llm.system"),
    REQUEST_MODEL: ("llm.model_name", "embedding.model_name"),
    INPUT: ("gen_ai.usage.prompt_tokens", "llm.token_count.prompt"),
    OUTPUT: ("gen_ai.usage.completion_tokens", "llm.token_count.completion"),
    CACHE_READ: (
        "gen_ai.usage.cache_read_input_tokens",
        "llm.token_count.prompt_details.cache_read",
    ),
    CACHE_WRITE: (
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "llm.token_count.prompt_details.cache_write",
    ),
    REASONING: (
        "gen_ai.usage.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
    ),
    HTTP_STATUS: ("http.status_code",),
    TOOL_NAME: ("tool.name", "traceloop.entity.name"),
    AGENT_NAME: ("agent.name", "gen_ai.workflow.name"),
    CONVERSATION: ("session.id",),
}
"""The names that the same facts have, or had, elsewhere."""

SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"
RESOURCE_NAMES: Final = {SERVICE_NAME: SERVICE_NAME, SERVICE_VERSION: SERVICE_VERSION}

PROVIDERS: Final = {
    "aws.bedrock": "bedrock",
    "az.ai.inference": "azure",
    "az.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "gcp.gemini": "gemini",
    "gcp.gen_ai": "gemini",
    "gcp.vertex_ai": "vertex",
    "mistral_ai": "mistral",
    "moonshot_ai": "moonshot",
    "x_ai": "xai",
}
"""The conventions' providers in the fleet's words, so that one provider is one line of a table;
whatever is not here keeps its name."""

SPAN_ATTRIBUTES: Final = {
    "db.system.name": "db_system",
    "error.type": "error_type",
    "gen_ai.agent.name": "agent_name",
    "gen_ai.data_source.id": "data_source",
    "gen_ai.memory.store.id": "memory_store",
    "gen_ai.operation.name": "operation",
    "gen_ai.request.model": "model",
    "http.request.method": "http_method",
    "http.response.status_code": "status_code",
    "messaging.system": "messaging_system",
    "rpc.system": "rpc_system",
    "server.address": "server",
}
"""What is kept of a span that is no call: the closed list, and the names it is kept under."""

HERMES: Final = "hermes."
HERMES_EVENT: Final = "hermes.event"
HERMES_ATTRIBUTES: Final = "hermes.attrs."
"""The attributes of a span that our agent recorded, each under its own name."""
HERMES_SEQ: Final = "hermes.seq"
"""The agent's row counter, by which the later of two copies of a run is known."""

KNOWN: Final = {
    **{
        name: name
        for name in (
            *(OPERATION, HERMES_EVENT, HERMES_SEQ, *KIND_WORDS),
            *(PROVIDER, REQUEST_MODEL, RESPONSE_MODEL, RESPONSE_ID, FINISH, FIRST_CHUNK),
            *(INPUT, OUTPUT, CACHE_READ, CACHE_WRITE, REASONING),
            *(SERVER, PORT, HTTP_STATUS, ERROR_TYPE),
            *(TOOL_NAME, TOOL_TYPE, TOOL_CALL_ID, AGENT_NAME, AGENT_VERSION, CONVERSATION),
            *SPAN_ATTRIBUTES,
            *(f"{HERMES}{column.name}" for table in EVENT_TABLES for column in table.columns),
        )
    },
    **{older: name for name, olders in OLDER.items() for older in olders},
}
"""The closed list of span attributes that are read at all, each with the newest of its names, under
which it is kept. Messages, arguments, results and instructions are not on it: a decoder drops them
before anything else sees the span."""
