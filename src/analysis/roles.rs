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

/// Functions through which everything of their kind begins, and what these call for a moment, so that they say nothing: how their
/// files end.
const BEGINNINGS: [&str; 37] = [
    "/threading.py",
    "/queue.py",
    "/_weakrefset.py",
    "/weakref.py",
    "asyncio/base_events.py",
    "asyncio/events.py",
    "asyncio/futures.py",
    "asyncio/taskgroups.py",
    "concurrent/futures/_base.py",
    "concurrent/futures/thread.py",
    "eventlet/corolocal.py",
    "eventlet/event.py",
    "eventlet/green/os.py",
    "eventlet/green/thread.py",
    "eventlet/green/threading.py",
    "eventlet/green/time.py",
    "eventlet/greenpool.py",
    "eventlet/greenthread.py",
    "eventlet/hubs/__init__.py",
    "eventlet/hubs/epolls.py",
    "eventlet/hubs/hub.py",
    "eventlet/hubs/poll.py",
    "eventlet/hubs/timer.py",
    "eventlet/lock.py",
    "eventlet/patcher.py",
    "eventlet/semaphore.py",
    "eventlet/timeout.py",
    "futurist/_futures.py",
    "futurist/_green.py",
    "futurist/_thread.py",
    "futurist/_utils.py",
    "gevent/event.py",
    "gevent/local.py",
    "gevent/pool.py",
    "gevent/thread.py",
    "gevent/threadpool.py",
    "oslo_utils/excutils.py",
];

/// Functions of a worker of futurist's pools of threads.
const POOLED: [&str; 2] = ["run", "_wait_for_work"];

/// What a function says of the role of what it runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    /// That it is this one: in words, and the function that says so.
    Known(&'static str, &'static str),
    /// That it works for a pool.
    Pooled,
    /// Nothing: everything of its kind begins so.
    Nothing,
    /// That it may have been begun for this function, if nothing else called that.
    Begun,
}

impl Says {
    /// That of a function.
    pub(crate) fn of(function: &str, file: &str) -> Says {
        // Before Python 3.11 functions have no classes in their names.
        let name = function.rsplit('.').next().unwrap_or_default();
        let mut roles = ROLES.iter();
        if let Some((_, function, role)) =
            roles.find(|(end, known, _)| *known == name && file.ends_with(end))
        {
            return Says::Known(role, function);
        }
        let begins = BEGINNINGS.iter().any(|end| file.ends_with(end));
        match begins {
            true if name == "_worker" => Says::Pooled,
            // What else there is in that file, those call who have work for the pool.
            true if file.ends_with("futurist/_thread.py") && POOLED.contains(&name) => Says::Pooled,
            true => Says::Nothing,
            // Modules are run by what imports them.
            false if function == "<module>" || file.starts_with("<frozen ") => Says::Nothing,
            false => Says::Begun,
        }
    }
}

/// What is known of a role by functions that ran: of those that others called, each is heard of before its callers.
#[derive(Debug, Clone)]
pub(crate) struct Role<T> {
    /// What it is called.
    known: Option<&'static str>,
    /// What it was begun for, and for how long that ran.
    entry: Option<(u64, T)>,
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
    /// Hears of a function that ran for so long, which `entry` stands for. Of what was called one after another what ran for longest
    /// is what all was begun for: the others were called for a moment. Whoever called that ran for at least as long.
    pub(crate) fn ran(
        &mut self,
        function: &str,
        file: &str,
        ran_ns: u64,
        entry: impl FnOnce() -> T,
    ) {
        let says = Says::of(function, file);
        match says {
            Says::Known(role, _) => self.known = Some(role),
            Says::Pooled => self.pooled = true,
            Says::Nothing => return,
            Says::Begun => {}
        }
        let is_longest = |(longest, _): &(u64, T)| ran_ns >= *longest;
        if says != Says::Pooled && self.entry.as_ref().is_none_or(is_longest) {
            self.entry = Some((ran_ns, entry()));
        }
    }

    /// The role in words, with those that `name` has for the function that it was begun for; `None` where nothing says. A worker of
    /// a pool is called by none of its work.
    pub(crate) fn words(self, name: impl FnOnce(T) -> String) -> Option<String> {
        let known = self.known.map(str::to_owned);
        let pooled = || self.pooled.then(|| POOL_WORKER.to_owned());
        known
            .or_else(pooled)
            .or_else(|| self.entry.map(|(_, entry)| name(entry)))
    }
}

/// What a worker of a pool is called.
pub(crate) const POOL_WORKER: &str = "pool worker";

/// The role of a stack of functions and files, the innermost first: a known one, else the function that it was begun for.
pub(crate) fn role<'a>(stack: impl Iterator<Item = (&'a str, &'a str)>) -> Option<String> {
    let (mut known, mut entry, mut pooled) = (None, None, None);
    for (function, file) in stack {
        match Says::of(function, file) {
            Says::Known(role, _) => known = Some(role),
            Says::Pooled => pooled = Some(POOL_WORKER),
            Says::Nothing => {}
            Says::Begun => entry = Some(function),
        }
    }
    known.or(entry).or(pooled).map(str::to_owned)
}

/// Whether a hub is on a stack of functions and files: what stands above it is run by it.
pub(crate) fn has_hub<'a>(mut stack: impl Iterator<Item = (&'a str, &'a str)>) -> bool {
    stack.any(|(function, file)| matches!(Says::of(function, file), Says::Known("hub", _)))
}

#[cfg(test)]
mod tests {
    use super::{Role, role};

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
    fn what_libraries_call_before_and_after_is_not_what_a_thread_was_begun_for() {
        let after = |ran: &[(&str, &str, u64)]| {
            let mut role = Role::default();
            for (function, file, took) in ran {
                role.ran(function, file, *took, || (*function).to_owned());
            }
            role.words(|name| name)
        };
        let job = ("work", "/srv/app.py", 900);
        let helper = ("StopWatch.__init__", "/x/oslo_utils/timeutils.py", 5);
        let wrapper = ("wrapper", "/x/oslo_utils/excutils.py", 950);
        assert_eq!(after(&[helper, job, wrapper]).as_deref(), Some("work"));
        assert_eq!(after(&[job, helper, wrapper]).as_deref(), Some("work"));
        let import = ("_find_and_load", "<frozen importlib._bootstrap>", 2_000);
        assert_eq!(after(&[job, import]).as_deref(), Some("work"));
        // What calls the others ends last.
        let inner = ("step", "/srv/app.py", 900);
        assert_eq!(after(&[inner, job]).as_deref(), Some("work"));
        let future = ("Future.set_result", "/x/concurrent/futures/_base.py", 2);
        assert_eq!(after(&[future]), None);
        let worker = ("_worker", "/x/concurrent/futures/thread.py", 10_000);
        assert_eq!(
            after(&[job, future, worker]).as_deref(),
            Some("pool worker")
        );
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
