package faults

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Bounds of a random schedule.
const (
	shortestFault = 2 * time.Second
	longestFault  = 10 * time.Second
	longestCalm   = 6 * time.Second
)

// Random draws faults for about the given time, those that need nothing but movable clocks. The same seed gives the same schedule.
func Random(seed uint64, length time.Duration) []Step {
	rng := rand.New(rand.NewPCG(seed, 1))
	all := slices.DeleteFunc(Faults(), func(f *Fault) bool { return f.under != (conditions{clocks: f.under.clocks}) })
	var steps []Step
	var deck []*Fault // every fault comes before one comes again
	for at := time.Duration(0); at < length; {
		if len(deck) == 0 {
			deck = slices.Clone(all)
			rng.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		step := Step{
			Fault: deck[0],
			After: time.Second + time.Duration(rng.Int64N(int64(longestCalm))),
			For:   shortestFault + time.Duration(rng.Int64N(int64(longestFault-shortestFault))),
		}
		deck = deck[1:]
		at += step.After + step.For
		steps = append(steps, step)
	}
	return steps
}
