//! The traced program that the benches pretend to have: calls of many functions to a realistic depth.

use std::sync::Arc;

use pystap::engine::stap::wire::Encoder;
use pystap::event::{Event, Frame, Place, Text, What};

/// Functions of the program. A large service calls about as many.
const FUNCTIONS: usize = 5_000;
/// Frames that are open on average.
const DEPTH: usize = 40;

/// An endless stream of calls and returns that pair, in four threads.
pub(crate) struct Program {
    places: Vec<Arc<Place>>,
    stacks: [Vec<usize>; 4],
    random: u64,
    ts: u64,
}

impl Program {
    /// A program that has not begun.
    pub(crate) fn new() -> Program {
        Program::with_functions(FUNCTIONS)
    }

    /// A program of so many functions that has not begun.
    pub(crate) fn with_functions(functions: usize) -> Program {
        let text = |text: String| Text {
            text,
            ..Text::default()
        };
        let place = |number: usize| {
            Arc::new(Place {
                file: text(format!(
                    "/usr/lib/python3/dist-packages/service/part_{}/handlers.py",
                    number / 20
                )),
                function: text(format!("handle_request_{number}")),
                qualname: None,
                group: None,
            })
        };
        Program {
            places: (0..functions).map(place).collect(),
            stacks: Default::default(),
            random: 0x2545_f491_4f6c_dd1d,
            ts: 1_700_000_000_000_000_000,
        }
    }

    /// Encodes the next `count` events.
    pub(crate) fn run(&mut self, count: usize, encoder: &mut Encoder) {
        for _ in 0..count {
            let event = self.next_event();
            encoder.event(&event);
        }
    }

    /// The next event as it is before anything has looked at it.
    pub(crate) fn next_event(&mut self) -> Event {
        // xorshift: the bench needs a mixture, not randomness.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.ts += 500;
        let thread = (self.random >> 60) as usize % self.stacks.len();
        let stack = &mut self.stacks[thread];
        let deeper = (self.random >> 20) as usize % (2 * DEPTH) >= stack.len();
        let what = match stack.pop() {
            Some(function) if !deeper => What::Return {
                place: Arc::clone(&self.places[function]),
                line: 20,
                duration_ns: None,
                frame: Frame::default(),
            },
            open => {
                stack.extend(open);
                let function = (self.random >> 32) as usize % self.places.len();
                stack.push(function);
                What::Call {
                    place: Arc::clone(&self.places[function]),
                    line: 10,
                    frame: Frame::default(),
                }
            }
        };
        Event {
            ts: self.ts,
            pid: 4242,
            tid: 4242 + thread as u32,
            interpreter: None,
            what,
        }
    }
}
