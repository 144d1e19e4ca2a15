//! Quotas of servers: all callers of a broker share them, and without a quota nothing is slowed down.

pub(crate) mod broker;
mod counted;
mod killed;
mod reload;
mod resent;
mod shared;
