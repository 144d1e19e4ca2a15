// A client for the scenarios of the conformance suite, on the official SDK: the suite starts it with the URL of a
// scenario's server. With SERVER_COMMAND, a JSON array, it connects through that program instead, whose argument URL it
// replaces: over stdio, or over HTTP if the program has --listen.

const { spawn } = require("node:child_process");
const { createInterface } = require("node:readline");
const { Client, StreamableHTTPClientTransport } = require("@modelcontextprotocol/client");
const { StdioClientTransport } = require("@modelcontextprotocol/client/stdio");

const scenario = process.env.MCP_CONFORMANCE_SCENARIO;
const version = process.env.MCP_CONFORMANCE_PROTOCOL_VERSION;
const context = JSON.parse(process.env.MCP_CONFORMANCE_CONTEXT ?? "{}");

async function transport(url) {
  const words = JSON.parse(process.env.SERVER_COMMAND ?? "[]");
  if (words.length > 0) {
    const [command, ...args] = words.map((word) => (word === "URL" ? url : word));
    if (!args.includes("--listen")) {
      return new StdioClientTransport({ command, args, env: process.env });
    }
    url = `http://${await listening(command, args)}/mcp`;
  }
  return new StreamableHTTPClientTransport(new URL(url));
}

// Starts the program, which ends with this process; returns the address that it logs.
function listening(command, args) {
  const program = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"] });
  process.on("exit", () => program.kill());
  return new Promise((resolve, reject) => {
    program.on("exit", (code) => reject(new Error(`the program ended with ${code}`)));
    createInterface(program.stderr).on("line", (line) => {
      console.error(line);
      const address = line.match(/listening address=(\S+)/);
      if (!address) return;
      // The program doesn't keep this process alive from here on.
      program.unref();
      program.stderr.unref();
      resolve(address[1]);
    });
  });
}

async function callEach(client, tools) {
  for (const { name } of tools) await client.callTool({ name, arguments: {} });
}

// The calls of the client once it is connected. In scenarios without an entry it only lists the tools.
const scenarios = {
  async tools_call(client) {
    const result = await client.callTool({ name: "add_numbers", arguments: { a: 5, b: 3 } });
    if (!result.content[0].text.endsWith("is 8")) throw new Error(JSON.stringify(result));
  },

  async "elicitation-sep1034-client-defaults"(client, tools) {
    await callEach(client, tools);
  },

  async "sse-retry"(client, tools) {
    await callEach(client, tools);
  },

  // The last tool answers without resultType, which 2026-07-28 requires. The SDK refuses that; the scenario only checks
  // that it isn't handled as a question.
  async "sep-2322-client-request-state"(client, tools) {
    const last = tools.pop();
    await callEach(client, tools);
    await callEach(client, [last]).catch((error) => {
      if (error.data?.violation !== "missing-resultType") throw error;
    });
  },

  async "http-standard-headers"(client, tools) {
    await callEach(client, tools);
    const { resources } = await client.listResources();
    for (const { uri } of resources) await client.readResource({ uri });
    const { prompts } = await client.listPrompts();
    for (const { name } of prompts) await client.getPrompt({ name });
  },

  async "http-custom-headers"(client) {
    for (const call of context.toolCalls) await client.callTool(call);
  },

  // Every listed tool is called: a tool that must not be called must not be listed.
  async "http-invalid-tool-headers"(client, tools) {
    for (const { name } of tools) await client.callTool({ name, arguments: { region: "us-west1" } });
  },

  async "json-schema-2020-12-preservation"(client, tools) {
    const { inputSchema } = tools.find(({ name }) => name === "json_schema_2020_12_tool");
    await client.callTool({ name: "json_schema_echo", arguments: { schema: inputSchema } });
  },
};

async function main() {
  const stateless = version >= "2026-07-28";
  const client = new Client(
    { name: "sigward-tests", version: "1.0" },
    {
      capabilities: { elicitation: { form: { applyDefaults: true } }, roots: {}, sampling: {} },
      versionNegotiation: { mode: stateless ? { pin: version } : "legacy" },
    },
  );
  client.setRequestHandler("elicitation/create", async () => ({ action: "accept", content: {} }));
  await client.connect(await transport(process.argv.at(-1)));
  try {
    const { tools } = await client.listTools();
    await scenarios[scenario]?.(client, tools);
  } finally {
    await client.transport.terminateSession?.();
    await client.close();
  }
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
