"use strict";
// Starts a program of the package for this platform, in place of this one as far as Node lets it: the child has the very
// standard input and output of this process (no byte passes through JavaScript), gets its signals, and gives its exit
// code.

const { spawn } = require("node:child_process");
const path = require("node:path");

// Names of Node to names of packages, which package.json lists as optional dependencies.
const PLATFORMS = ["darwin-arm64", "darwin-x64", "linux-arm64", "linux-x64"];

function find(program) {
  const platform = `${process.platform}-${process.arch}`;
  if (!PLATFORMS.includes(platform)) {
    throw new Error(`there is no package for ${platform}; those are: ${PLATFORMS.join(", ")}`);
  }
  const name = `@sigward/${platform}`;
  try {
    return path.join(path.dirname(require.resolve(`${name}/package.json`)), "bin", program);
  } catch {
    throw new Error(
      `the package ${name} is missing; install sigward-proxy again, without --omit=optional or --no-optional`,
    );
  }
}

function launch(program) {
  let child;
  try {
    child = spawn(find(program), process.argv.slice(2), { stdio: "inherit" });
  } catch (error) {
    console.error(`${program}: ${error.message}`);
    process.exit(1);
  }
  for (const signal of ["SIGHUP", "SIGINT", "SIGTERM"]) {
    process.on(signal, () => child.kill(signal));
  }
  child.on("error", (error) => {
    const hint =
      error.code === "ENOENT"
        ? "; its C library may be missing: these packages are for glibc, not for musl"
        : "";
    console.error(`${program}: ${error.message}${hint}`);
    process.exit(1);
  });
  child.on("exit", (code, signal) => {
    if (signal === null) {
      process.exit(code);
    }
    // As the child ended: whoever waits sees the same signal.
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
}

module.exports = { launch };
