//! Quotas of servers: kept by all callers of a broker together, and never felt where a server has none.

pub(crate) mod broker;
mod counted;
mod killed;
mod reload;
mod resent;
mod shared;
