// The official TypeScript SDK: its first version for protocol versions with sessions, its second for those without.
// Arguments, calls and output are those of the clients in Python, see story.py.

const [generation, target, ...args] = process.argv.slice(2);
const isFirst = generation === "sessions";
const root = isFirst ? "@modelcontextprotocol/sdk/client" : "@modelcontextprotocol/client";
const { Client } = require(isFirst ? `${root}/index.js` : root);
const { StdioClientTransport } = require(isFirst ? `${root}/stdio.js` : `${root}/stdio`);
const { StreamableHTTPClientTransport } = require(isFirst ? `${root}/streamableHttp.js` : root);

const progress = [];
const questions = [];
const receipts = [];

async function main() {
  const client = new Client(
    { name: "sigward-tests", version: "1.0" },
    // The second SDK detects the version of the server; the first ignores this option.
    { capabilities: { elicitation: {} }, versionNegotiation: { mode: "auto" } },
  );
  const elicitation = isFirst
    ? require("@modelcontextprotocol/sdk/types.js").ElicitRequestSchema
    : "elicitation/create";
  client.setRequestHandler(elicitation, async ({ params }) => {
    questions.push(params.message);
    return { action: "accept", content: { name: "Ada" } };
  });
  const transport = target.startsWith("http")
    ? new StreamableHTTPClientTransport(new URL(target))
    : new StdioClientTransport({ command: target, args, env: process.env });
  await client.connect(transport);
  try {
    console.log(JSON.stringify(await tell(client)));
    await Promise.all(receipts);
  } finally {
    await transport.terminateSession?.();
    await client.close();
  }
}

async function tell(client) {
  const onprogress = ({ progress: done, total, message }) => {
    progress.push([done, total, message]);
    // The server waits for this request: the SDK drops progress that arrives together with the response.
    receipts.push(client.getPrompt({ name: "greet" }));
  };
  const options = { onprogress };
  const call = (name, given) => {
    const params = { name, arguments: given };
    return isFirst ? client.callTool(params, undefined, options) : client.callTool(params, options);
  };
  const tools = [];
  for (let cursor, more = true; more; more = cursor !== undefined) {
    const page = await client.listTools(cursor && { cursor });
    tools.push(...page.tools);
    cursor = page.nextCursor;
  }
  return {
    server: client.getServerVersion().name,
    tools,
    default: await call("whoami", {}),
    staging: await call("whoami", { aws_profile: "staging" }),
    refused: await call("whoami", { aws_profile: "nobody" }),
    noted: await call("write_note", { note: "1", aws_profile: "prod" }),
    unknown: await call("no_such", {}).then(JSON.stringify, ({ message }) => message),
    resource: await client.readResource({ uri: "test://note" }),
    prompt: await client.getPrompt({ name: "greet" }),
    progress,
    questions,
  };
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
