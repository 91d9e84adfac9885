//! Sockets, TUN devices, routes and DNS settings of the operating system.

