//! A store that does not look at the condition that fences masters is found by the judge: whoever was stopped and goes
//! on then commits over what its successor has committed.
