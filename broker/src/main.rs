//! The broker's process. What it does is in [`sigward_broker`].

#[global_allocator]
static ALLOCATOR: sigward_broker::memory::ZeroOnFree = sigward_broker::memory::ZeroOnFree;

fn main() -> std::process::ExitCode {
    sigward_broker::cli::main()
}
