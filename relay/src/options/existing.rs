//! The environment of the existing relay, for those who replace it by this one.

use clap::Command;

/// Our option, and the variable of the existing relay that says the same.
///
/// It has more that do not fit: `OTLP_GRPC_ENDPOINT`, `CONTROL_ENDPOINT` and `TELEMETRY` (this relay has Prometheus
/// metrics instead) and `RNG_SEED` (for tests). Its token is found by [`token_variable`].
const VARIABLES: [(&str, &str); 14] = [
    ("public_ip4_addr", "PUBLIC_IP4_ADDR"),
    ("public_ip6_addr", "PUBLIC_IP6_ADDR"),
    ("bind_ip4_addr", "BIND_IP4_ADDR"),
    ("bind_ip6_addr", "BIND_IP6_ADDR"),
    ("listen_port", "LISTEN_PORT"),
    ("lowest_port", "LOWEST_PORT"),
    ("highest_port", "HIGHEST_PORT"),
    ("api_url", "FIREZONE_API_URL"),
    ("name", "FIREZONE_NAME"),
    ("health_listen", "HEALTH_CHECK_ADDR"),
    ("xdp_interface", "EBPF_OFFLOADING"),
    ("xdp", "EBPF_ATTACH_MODE"),
    ("log_format", "LOG_FORMAT"),
    ("workers", "NUM_WORKER_THREADS"),
];

/// The same command, with the other variable where it is set and ours is not.
pub(super) fn variables(command: Command, is_set: impl Fn(&str) -> bool) -> Command {
    VARIABLES.iter().fold(command, |command, (option, theirs)| {
        let ours = format!("CONNLIB_{}", option.to_uppercase());
        if is_set(&ours) || !is_set(theirs) {
            return command;
        }
        command.mut_arg(option, |argument| argument.env(theirs))
    })
}

/// The variable with the portal's token.
pub(crate) fn token_variable() -> &'static str {
    let is_set = |name| std::env::var_os(name).is_some();
    if !is_set("CONNLIB_TOKEN") && is_set("FIREZONE_TOKEN") {
        "FIREZONE_TOKEN"
    } else {
        "CONNLIB_TOKEN"
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::options::Options;

    #[test]
    fn ours_goes_before_theirs() {
        let variable = |set: &[&str]| {
            let command = variables(Options::command(), |name| set.contains(&name));
            let argument =
                command.get_arguments().find(|argument| argument.get_id() == "listen_port");
            argument.unwrap().get_env().unwrap().to_owned()
        };
        assert_eq!(variable(&[]), "CONNLIB_LISTEN_PORT");
        assert_eq!(variable(&["LISTEN_PORT"]), "LISTEN_PORT");
        assert_eq!(variable(&["LISTEN_PORT", "CONNLIB_LISTEN_PORT"]), "CONNLIB_LISTEN_PORT");
    }

    #[test]
    fn every_option_is_one_of_ours() {
        let command = Options::command();
        for (option, _) in VARIABLES {
            let ours = format!("CONNLIB_{}", option.to_uppercase());
            let argument = command.get_arguments().find(|argument| argument.get_id() == option);
            assert_eq!(argument.unwrap().get_env().unwrap(), &*ours);
        }
    }
}
