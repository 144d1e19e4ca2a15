"""The official client for versions with and without sessions: `mcp` from 2.0 on."""

import asyncio

import story
from mcp import Client, StdioServerParameters
from mcp_types import ElicitResult


def server():
    if story.URL:
        return story.URL
    return StdioServerParameters(
        command=story.COMMAND, args=story.ARGUMENTS, env=story.ENVIRONMENT
    )


async def on_question(_, params):
    return ElicitResult(action="accept", content=story.answer(params.message))


async def main():
    # The client detects the version of the server.
    mode = "legacy" if story.GENERATION == "sessions" else "auto"
    async with Client(server(), mode=mode, elicitation_callback=on_question) as client:

        async def tools():
            page = await client.list_tools()
            found = page.tools
            while page.next_cursor:
                page = await client.list_tools(cursor=page.next_cursor)
                found += page.tools
            return found

        def call(name, arguments):
            return client.call_tool(name, arguments, progress_callback=story.on_progress)

        await story.tell(
            client.server_info.name,
            tools,
            call,
            client.read_resource,
            client.get_prompt,
        )


asyncio.run(main())
