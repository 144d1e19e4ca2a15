"""Drives an MCP server over stdio with the official client, and prints what it saw as one JSON object.

usage: official.py COMMAND ARGUMENT...
"""

import asyncio
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import PaginatedRequestParams
from pydantic import AnyUrl


def offered(tools):
    def names(tool):
        properties = tool.inputSchema["properties"]
        own = "aws_profile" in properties and "enum" not in properties["aws_profile"]
        return properties["proxy_aws_profile" if own else "aws_profile"]["enum"]

    return {tool.name: names(tool) for tool in tools}


async def main():
    server = StdioServerParameters(command=sys.argv[1], args=sys.argv[2:], env=dict(os.environ))
    async with stdio_client(server) as pipes, ClientSession(*pipes) as session:
        info = await session.initialize()
        first = await session.list_tools()
        second = await session.list_tools(params=PaginatedRequestParams(cursor=first.nextCursor))
        default = await session.call_tool("whoami", {})
        staging = await session.call_tool("whoami", {"aws_profile": "staging"})
        refused = await session.call_tool("whoami", {"aws_profile": "nobody"})
        note = await session.read_resource(AnyUrl("test://note"))
        greeting = await session.get_prompt("greet")
        try:
            unknown = str(await session.call_tool("no_such", {}))
        except Exception as error:
            unknown = str(error)
        print(
            json.dumps(
                {
                    "server": info.serverInfo.name,
                    "offered": offered(first.tools),
                    "next": offered(second.tools),
                    "default": default.content[0].text,
                    "staging": staging.content[0].text,
                    "structured": staging.structuredContent,
                    "refused": {"isError": refused.isError, "text": refused.content[0].text},
                    "note": note.contents[0].text,
                    "greeting": greeting.messages[0].content.text,
                    "unknown": unknown,
                }
            )
        )


asyncio.run(main())
