//! The real program in network namespaces, beside programs that others wrote.
// The lints know a test by its attribute; what tests share has none.
#![allow(clippy::panic, clippy::unwrap_used)]

mod a_public_address_may_be_late;
mod a_relay_joins_its_portal;
mod a_relay_that_is_told_to_end_drains_first;
mod a_start_that_cannot_work_says_what_to_do;
mod a_username_has_one_allocation;
mod certificates_are_renewed_while_it_runs;
mod limits_hold_for_all_workers_together;
mod other_peoples_clients_are_served;
mod services_of_the_machine_are_out_of_reach;
mod strangers_get_little;
mod support;
mod the_environment_of_the_existing_relay_is_understood;
