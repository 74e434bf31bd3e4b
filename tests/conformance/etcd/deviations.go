package main

// A deviation is a difference from etcd that is meant: where, why, and exactly what is answered instead.
type deviation struct {
	name   string
	reason string
	on     []target
	row    string // a pattern of path.Match, as is step
	step   string
	etcd   string // what etcd answers, where that is worth saying
	got    string
}

var deviations = []deviation{}
