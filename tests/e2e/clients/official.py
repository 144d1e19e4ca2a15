"""The official client for protocol versions with sessions: the last version of `mcp` before 2.0."""

import asyncio

import story
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client
from mcp.types import ElicitResult, PaginatedRequestParams


def connection():
    if story.URL:
        return streamablehttp_client(story.URL)
    server = StdioServerParameters(
        command=story.COMMAND, args=story.ARGUMENTS, env=story.ENVIRONMENT
    )
    return stdio_client(server)


async def on_question(_, params):
    return ElicitResult(action="accept", content=story.answer(params.message))


async def main():
    async with (
        connection() as (incoming, outgoing, *_),
        ClientSession(incoming, outgoing, elicitation_callback=on_question) as session,
    ):
        info = await session.initialize()

        async def tools():
            page = await session.list_tools()
            found = page.tools
            while page.nextCursor:
                page = await session.list_tools(params=PaginatedRequestParams(cursor=page.nextCursor))
                found += page.tools
            return found

        def call(name, arguments):
            return session.call_tool(name, arguments, progress_callback=story.on_progress)

        await story.tell(
            info.serverInfo.name,
            tools,
            call,
            session.read_resource,
            session.get_prompt,
        )


asyncio.run(main())
