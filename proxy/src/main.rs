//! The `sigward-proxy` program.

fn main() -> std::process::ExitCode {
    sigward_proxy::main()
}
