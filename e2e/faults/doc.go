// Package faults breaks whole systems of real processes under load, and judges what became of every reply.
//
// A run starts redis-server, one broker and two API instances, each a process of its own, with a TCP proxy on every way
// between them. Foreign cameras (Eclipse Paho's client) and simulated ones answer commands; clients send them in the open
// model, so that a slow system meets the same load as a fast one. Then faults come, one after the other: processes are
// killed, frozen and ended in order, connections are refused, slowed and cut.
//
// A journal outside of the system notes what was sent, delivered, acknowledged to a camera and read, with a hash of each
// body. After the faults the rest is drained through the API, as each client, and an oracle compares: what a camera has a
// PUBACK for was read by its own client and by nobody else, with one body (I1, I2, I3, I9); no command came to another
// device, twice or after its deadline (I4); every accepted request ended in a reply or in a true cause (I5, I8); and each
// answer was one that the table of fallbacks allows, in its time (I7). Each reply also has a history, of its put and of
// what clients were told, which porcupine judges: some order of its steps must explain it (slotModel). What no fault has
// touched is asked for again when its grace is over, and must not come; what was cached before an outage of the broker must
// come during it.
//
// All processes run on one machine. For F14 the program is built with a clock that can be set, by an overlay over package
// time, and Redis gets one by a preloaded library; the simulated cameras' clocks are wrong by two hours in every run. A run
// says nothing of power failures: the kernel survives a kill -9, and with it what a process had written.
//
// Compare puts the same load and faults on Mosquitto with a bridge into Redis, and asks the oracle's first question only.
//
// Run, Judge and the writers of reports are used by one goroutine at a time each.
package faults
