package faults

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// TestSoak_WhatIsNotKnownIsNotFlat: a process that did not tell what it holds has not passed.
func TestSoak_WhatIsNotKnownIsNotFlat(t *testing.T) {
	r := &Report{Verdict: &Verdict{}, journal: newJournal()}
	r.judgeTrends()
	if r.Verdict.Count(strange) != len(r.processes()) {
		t.Errorf("found %v", r.Verdict.Violations)
	}
}

// TestSoak_WhatGrowsIsSeen: what rises once everything is full breaks a promise, and the report says so.
func TestSoak_WhatGrowsIsSeen(t *testing.T) {
	const samples = 300
	cases := map[string]struct {
		heap  func(n int) float64 // MiB at each sample
		grows bool
	}{
		"flat":                   {func(int) float64 { return 100 }, false},
		"up and down":            {func(n int) float64 { return 100 + 20*float64(n%7) }, false},
		"filling for half of it": {func(n int) float64 { return float64(min(n, samples/2)) }, false},
		"rising slowly":          {func(n int) float64 { return 100 + 50*float64(n)/samples }, true},
		"shrinking":              {func(n int) float64 { return 100 - 20*float64(n)/samples }, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := &Report{Began: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Took: 2 * samples * time.Second, Config: Config{Rate: 100}, Verdict: &Verdict{}, journal: newJournal()}
			for n := range samples {
				held := map[string]resources{}
				for _, name := range r.processes() {
					held[name] = resources{goroutines: 100, files: 30, heap: c.heap(n) * (1 << 20)}
				}
				r.journal.samples = append(r.journal.samples, sample{r.Began.Add(time.Duration(n) * sampleEvery), held})
			}
			r.judgeTrends()
			var doc bytes.Buffer
			if err := WriteSoak(&doc, r, "command", "soak.svg"); err != nil {
				t.Fatal(err)
			}
			if told := strings.Contains(doc.String(), "| broker | heap in use, MiB |") && strings.Contains(doc.String(), "**grows**"); told != c.grows || r.Verdict.Count(grown) > 0 != c.grows {
				t.Errorf("found %v, want growth: %t\n%s", r.Verdict.Violations, c.grows, doc.String())
			}
		})
	}
}
