//! Any packet as what pystap says to an agent: what is understood can be said again, and the filters that come of it
//! neither panic nor take long, and let through at least what pystap's own would.

#![no_main]

// The agent's own files; what it does with them needs an interpreter.
#[allow(dead_code)]
#[path = "../../agent/src/filter.rs"]
mod filter;

extern crate alloc;

use filter::Filter;
use libfuzzer_sys::fuzz_target;
use pystap::script::Filters;
use pystap::script::filter::Glob;
use pystap_agent_protocol::{LARGEST_PACKET, ToAgent, decode, encode};
use pystap_fuzz::{MIB, budget, within};

/// Names of functions and files, each with what pystap's globs treat in a special way.
const PLACES: [(&str, [&str; 2]); 6] = [
    ("/srv/app/server.py", ["handle", "Server.handle"]),
    ("/srv/app/__init__.py", ["<module>", "<module>"]),
    (
        "<frozen importlib._bootstrap>",
        ["_find_and_load", "_find_and_load"],
    ),
    ("<string>", ["<lambda>", "f.<locals>.<lambda>"]),
    ("/srv/[a]/b*c?.py", ["a]b", "A[0].a]b"]),
    ("", ["", ""]),
];

fuzz_target!(|bytes: &[u8]| {
    if bytes.len() > LARGEST_PACKET {
        return;
    }
    within(budget(MIB, 512, bytes), || {
        let Ok(message) = decode::<ToAgent>(bytes) else {
            return;
        };
        let said = encode(&message).expect("it came of one");
        assert_eq!(decode::<ToAgent>(&said).expect("our own"), message);
        let ToAgent::Start(start) = message else {
            return;
        };
        let Ok(filter) = Filter::new(&start.filters) else {
            return;
        };
        let own = own(&start.filters);
        for (file, names) in PLACES {
            let names = names.map(str::as_bytes);
            let accepted = filter.accepts(file.as_bytes(), names);
            assert!(!filter.is_empty() || accepted);
            if own
                .as_ref()
                .is_some_and(|own| own.accepts(file.as_bytes(), names))
            {
                assert!(
                    accepted,
                    "{file} {names:?} is kept back by {:?}",
                    start.filters
                );
            }
        }
    });
});

/// The filters as pystap understands them; none where one of them is no pattern to it, which it never says to an agent.
fn own(filters: &pystap_agent_protocol::Filters) -> Option<Filters> {
    let globs = |patterns: &[String], make: fn(&str) -> Option<Glob>| -> Option<Vec<Glob>> {
        patterns.iter().map(|pattern| make(pattern)).collect()
    };
    let plain = |pattern: &str| Glob::new(pattern).ok();
    let module = |pattern: &str| Glob::module(pattern).ok();
    Some(Filters {
        functions: globs(&filters.functions, plain)?,
        files: globs(&filters.files, plain)?,
        modules: globs(&filters.modules, module)?,
        not_functions: globs(&filters.not_functions, plain)?,
        not_files: globs(&filters.not_files, plain)?,
        not_modules: globs(&filters.not_modules, module)?,
    })
}
