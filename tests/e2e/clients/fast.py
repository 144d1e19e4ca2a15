"""The client of `fastmcp`."""

import asyncio

import story
from fastmcp import Client
from fastmcp.client.transports import StdioTransport


def server():
    if story.URL:
        return story.URL
    return StdioTransport(
        command=story.COMMAND, args=story.ARGUMENTS, env=story.ENVIRONMENT, keep_alive=False
    )


async def on_question(message, _type, _params, _context):
    return story.answer(message)


async def main():
    mode = "legacy" if story.GENERATION == "sessions" else "auto"
    async with Client(server(), mode=mode, elicitation_handler=on_question) as client:

        def call(name, arguments):
            return client.call_tool_mcp(name, arguments, progress_handler=story.on_progress)

        await story.tell(
            client.session.server_info.name,
            client.list_tools,
            call,
            client.read_resource_mcp,
            client.get_prompt_mcp,
        )


asyncio.run(main())
