//! What must hold of single events, each made many times.
