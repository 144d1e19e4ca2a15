//! The entry point of the broker process; see [`sigward_broker`].

#[global_allocator]
static ALLOCATOR: sigward_broker::memory::ZeroOnFree = sigward_broker::memory::ZeroOnFree;

fn main() -> std::process::ExitCode {
    sigward_broker::cli::main()
}
