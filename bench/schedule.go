package bench

import (
	"iter"
	"math/rand/v2"
	"time"
)

// schedule yields the moments at which exchanges are meant to start, counted from the start of the load, in order and up
// to its end. It never waits for an answer: this is the open model, in which a slow system meets the same load as a fast
// one.
type schedule = iter.Seq[time.Duration]

// constant spaces the exchanges evenly.
func constant(perSecond float64, length time.Duration) schedule {
	return func(yield func(time.Duration) bool) {
		for i := 0; ; i++ {
			// From the count each time: adding up a rounded interval would drift.
			at := time.Duration(float64(i) / perSecond * float64(time.Second))
			if at >= length || !yield(at) {
				return
			}
		}
	}
}

// poisson spaces them at random, as many independent people do: the gaps are exponential, so that several often start
// almost at once.
func poisson(perSecond float64, length time.Duration, rng *rand.Rand) schedule {
	return func(yield func(time.Duration) bool) {
		for at := time.Duration(0); ; {
			at += time.Duration(rng.ExpFloat64() / perSecond * float64(time.Second))
			if at >= length || !yield(at) {
				return
			}
		}
	}
}
