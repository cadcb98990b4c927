//! Lists of what is under way in a thread, which hostile or broken streams would make endless.

/// Garbage collections, and imports and the like, that can be under way in one thread.
pub(super) const MAX_NESTED: usize = 256;

/// Appends to a list that holds so many at most: what is oldest is forgotten.
pub(super) fn push<T>(open: &mut Vec<T>, item: T, most: usize) {
    if open.len() >= most {
        // Half at a time: whoever has as much open will go on.
        open.drain(..most / 2);
    }
    open.push(item);
}
