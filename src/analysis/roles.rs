//! What threads, greenlets and tasks are for, by the functions that they run.

/// What says at once what its thread or greenlet is for: how its file ends, its name, and the role. The outermost one counts.
const ROLES: [(&str, &str, &str); 14] = [
    (
        "oslo_messaging/rpc/server.py",
        "_process_incoming",
        "RPC worker",
    ),
    ("oslo_messaging/_drivers/base.py", "_runner", "RPC listener"),
    (
        "oslo_messaging/_drivers/amqpdriver.py",
        "poll",
        "RPC listener",
    ),
    (
        "oslo_messaging/_drivers/impl_rabbit.py",
        "_heartbeat_thread_job",
        "RabbitMQ heartbeat",
    ),
    ("oslo_service/loopingcall.py", "_run_loop", "periodic task"),
    (
        "backend/eventlet/loopingcall.py",
        "_run_loop",
        "periodic task",
    ),
    (
        "backend/threading/loopingcall.py",
        "_run_loop",
        "periodic task",
    ),
    ("eventlet/hubs/hub.py", "run", "hub"),
    ("gevent/hub.py", "run", "hub"),
    ("asyncio/base_events.py", "run_forever", "event loop"),
    ("uvicorn/server.py", "run", "HTTP server"),
    ("socketserver.py", "serve_forever", "server"),
    ("multiprocessing/pool.py", "worker", "pool worker"),
    (
        "apscheduler/schedulers/blocking.py",
        "_main_loop",
        "scheduler",
    ),
];

/// Functions through which everything of their kind begins, so that they say nothing: how their files end.
const BEGINNINGS: [&str; 11] = [
    "/threading.py",
    "concurrent/futures/thread.py",
    "eventlet/green/thread.py",
    "eventlet/greenthread.py",
    "eventlet/greenpool.py",
    "eventlet/hubs/timer.py",
    "futurist/_thread.py",
    "futurist/_utils.py",
    "futurist/_green.py",
    "gevent/threadpool.py",
    "oslo_utils/excutils.py",
];

/// What is known of a role by functions of one stack, each further out than the one before.
#[derive(Debug, Clone)]
pub(crate) struct Role<T> {
    /// What it is called, and the function that says so.
    known: Option<(&'static str, &'static str)>,
    entry: Option<T>,
    pooled: bool,
}

impl<T> Default for Role<T> {
    fn default() -> Role<T> {
        Role {
            known: None,
            entry: None,
            pooled: false,
        }
    }
}

impl<T> Role<T> {
    /// Hears of a function further out, which `entry` stands for.
    pub(crate) fn called_by(&mut self, function: &str, file: &str, entry: impl FnOnce() -> T) {
        // Before Python 3.11 functions have no classes in their names.
        let name = function.rsplit('.').next().unwrap_or_default();
        let known = ROLES
            .iter()
            .find(|(end, known, _)| *known == name && file.ends_with(end));
        if let Some((_, function, role)) = known {
            self.known = Some((role, function));
        }
        let begins = BEGINNINGS.iter().any(|end| file.ends_with(end));
        self.pooled |= begins && (name == "_worker" || file.ends_with("futurist/_thread.py"));
        if !begins && function != "<module>" {
            self.entry = Some(entry());
        }
    }

    /// The role in words, with those that `name` has for the function that it was begun for; `None` where nothing says.
    pub(crate) fn words(self, name: impl FnOnce(T) -> String) -> Option<String> {
        let pooled = self.pooled.then(|| POOL_WORKER.to_owned());
        let known = self.known.map(|(role, _)| role.to_owned());
        known.or_else(|| self.entry.map(name)).or(pooled)
    }

    /// Whether it is known what is run, and not only how it came to be.
    pub(crate) fn is_told(&self) -> bool {
        self.known.is_some() || self.entry.is_some()
    }

    /// The role in words that stay right whatever is run later: a pool's worker is not called by its first piece of work.
    pub(crate) fn label(self, name: impl FnOnce(T) -> String) -> Option<String> {
        match self.known {
            Some((role, function)) => Some(format!("{role} ({function})")),
            None if self.pooled => Some(POOL_WORKER.to_owned()),
            None => self.entry.map(name),
        }
    }
}

const POOL_WORKER: &str = "pool worker";

/// The role of a stack of functions and files, the innermost first: a known one, else the function that it was begun for.
pub(crate) fn role<'a>(stack: impl Iterator<Item = (&'a str, &'a str)>) -> Option<String> {
    let mut role = Role::default();
    for (function, file) in stack {
        role.called_by(function, file, || function);
    }
    role.words(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::role;

    const BOOTSTRAP: (&str, &str) = ("Thread._bootstrap", "/usr/lib/python3.11/threading.py");

    /// Of a stack that is written down from the outermost function on.
    fn of(stack: &[(&str, &str)]) -> Option<String> {
        role(stack.iter().rev().copied())
    }

    #[test]
    fn a_known_function_says_what_its_greenlet_is_for_whatever_it_calls() {
        let pool = ("GreenPool._spawn_n_impl", "/x/eventlet/greenpool.py");
        let worker = (
            "RPCServer._process_incoming",
            "/x/oslo_messaging/rpc/server.py",
        );
        let inner = (
            "LoopingCallBase._run_loop",
            "/x/oslo_service/loopingcall.py",
        );
        assert_eq!(of(&[pool, worker, inner]).as_deref(), Some("RPC worker"));
        assert_eq!(of(&[pool, inner]).as_deref(), Some("periodic task"));
        // Before Python 3.11.
        let bare = ("_process_incoming", worker.1);
        assert_eq!(of(&[bare]).as_deref(), Some("RPC worker"));
    }

    #[test]
    fn any_other_is_called_by_what_it_was_begun_for() {
        let run = ("Thread.run", BOOTSTRAP.1);
        assert_eq!(
            of(&[
                BOOTSTRAP,
                run,
                ("consume", "/srv/app.py"),
                ("get", "/srv/q.py")
            ])
            .as_deref(),
            Some("consume")
        );
        let pool = (
            "_worker",
            "/usr/lib/python3.11/concurrent/futures/thread.py",
        );
        assert_eq!(of(&[BOOTSTRAP, run, pool]).as_deref(), Some("pool worker"));
        assert_eq!(
            of(&[BOOTSTRAP, run, pool, ("resize", "/srv/app.py")]).as_deref(),
            Some("resize")
        );
        assert_eq!(
            of(&[("<module>", "/srv/app.py"), ("main", "/srv/app.py")]).as_deref(),
            Some("main")
        );
        assert_eq!(of(&[BOOTSTRAP]), None);
        assert_eq!(of(&[]), None);
    }
}
