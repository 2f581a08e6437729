//! Stories are told once on each wire.

/// Stories that run once on each wire: `fn story(driver: Driver)`.
#[macro_export]
macro_rules! on_both_drivers {
    ($($story:ident)*) => {
        mod on_epoll {
            $(#[test] fn $story() { super::$story($crate::support::gateway::Driver::Epoll) })*
        }
        mod on_io_uring {
            $(#[test] fn $story() { super::$story($crate::support::gateway::Driver::IoUring) })*
        }
    };
}

/// The same for stories that take a minute: left to `scripts/reliability.sh`.
#[macro_export]
macro_rules! long_on_both_drivers {
    ($($story:ident)*) => {
        mod long_on_epoll {
            $(#[test] #[ignore = "takes up to two minutes; scripts/reliability.sh runs it"]
            fn $story() { super::$story($crate::support::gateway::Driver::Epoll) })*
        }
        mod long_on_io_uring {
            $(#[test] #[ignore = "takes up to two minutes; scripts/reliability.sh runs it"]
            fn $story() { super::$story($crate::support::gateway::Driver::IoUring) })*
        }
    };
}
