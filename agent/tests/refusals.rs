//! What the agent does not do, and says so.
