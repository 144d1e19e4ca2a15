//! Quotas of servers: kept by all callers of a broker together, and never felt where a server has none.

mod broker;
mod counted;
mod resent;
mod shared;
