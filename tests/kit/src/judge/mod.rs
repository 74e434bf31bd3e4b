//! The judges of what clients were told: [`record`] is what they asked and heard, [`model`] what etcd would answer,
//! [`check`] holds one against the other. The simulation knows when each revision was committed; whoever judges real
//! processes reads the history back from them ([`readback`]), and [`bounds`] says by when each revision was there.

pub mod bounds;
pub mod check;
pub mod model;
pub mod readback;
pub mod record;
