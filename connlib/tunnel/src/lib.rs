//! ClientTunnel and GatewayTunnel: resources, routing, authorizations, filters and NAT.
#![forbid(unsafe_code)]
