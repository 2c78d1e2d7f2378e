//! The gRPC services of `toehold/proto`: generated code, renewed by `cargo xtask codegen`, and the codec of Opni's messages.

pub mod raw;

/// Opni's first version.
pub mod bootstrap {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
    include!("generated/bootstrap.rs");
}

/// Opni's second version.
pub mod bootstrap_v2 {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
    include!("generated/bootstrap_v2.rs");
}

/// gRPC's health service.
pub mod health_v1 {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
    include!("generated/grpc_health_v1.rs");
}

/// The third version: frames that travel.
pub mod join_v3 {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
    include!("generated/toehold_join_v3.rs");
}

/// What an agent says that has joined.
pub mod agent_v1 {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
    include!("generated/toehold_agent_v1.rs");
}
