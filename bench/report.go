package bench

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Report is everything that a run has found. Its JSON form is stable enough to compare runs of one machine.
type Report struct {
	MadeAt  time.Time      `json:"made_at"`
	Version string         `json:"version"`
	Machine Machine        `json:"machine"`
	Plan    Plan           `json:"plan"`
	Systems []SystemReport `json:"systems"` // ours first
	Idle    *IdleReport    `json:"idle,omitempty"`
}

// Plan is what was asked for.
type Plan struct {
	Cameras  int     `json:"cameras"`
	Clients  int     `json:"clients"`
	Rate     float64 `json:"rate"`
	Poisson  bool    `json:"poisson"`
	Duration float64 `json:"duration_s"` // of one round
	Warmup   float64 `json:"warmup_s"`
	Rounds   int     `json:"rounds"`
	Command  string  `json:"command"`
	Payload  int     `json:"payload_bytes"`
	Cache    string  `json:"cache"` // memory, redis; or unknown, of an API that was met
}

func planOf(c Config) Plan {
	p := Plan{
		Cameras: c.Cameras, Clients: c.Clients, Rate: c.Rate, Poisson: c.Poisson,
		Duration: c.Duration.Seconds(), Warmup: c.Warmup.Seconds(), Rounds: c.Rounds,
		Command: c.Command, Payload: c.Payload, Cache: "memory",
	}
	if c.Redis != "" {
		p.Cache = "redis"
	}
	if c.Server != "" {
		p.Cache, p.Clients = "unknown", len(c.Tokens)
	}
	return p
}

// String is one line for people.
func (p Plan) String() string {
	arrivals := "evenly spaced"
	if p.Poisson {
		arrivals = "at random moments (Poisson)"
	}
	rounds := ""
	if p.Rounds > 1 {
		rounds = fmt.Sprintf("%d rounds of ", p.Rounds)
	}
	return fmt.Sprintf("%d cameras, %d clients, %g exchanges of %q a second, %s, %s%g s after %g s of warm-up; replies padded by %d bytes; cache: %s",
		p.Cameras, p.Clients, p.Rate, p.Command, arrivals, rounds, p.Duration, p.Warmup, p.Payload, p.Cache)
}

// SystemReport is what was found of one system.
type SystemReport struct {
	Name  string `json:"name"`
	Load  Load   `json:"load"`
	Limit *Limit `json:"limit,omitempty"`
}

// Load is what a system did under the planned rate. Latencies are of exchanges that went well, and count from the moment
// at which an exchange was meant to start.
type Load struct {
	Scheduled  int     `json:"scheduled"`
	Completed  int     `json:"completed"`
	Throughput float64 `json:"throughput"` // replies read a second

	Sent      Latencies `json:"sent"`      // the system had taken the command: 202, or PUBACK
	Delivered Latencies `json:"delivered"` // the camera had the command and had sent its PUBACK
	Done      Latencies `json:"done"`      // the client had read the reply
	Lag       Latencies `json:"lag"`       // how late the driver began; a part of all others

	Errors      map[string]int `json:"errors,omitempty"` // kind → exchanges
	CamerasLost int64          `json:"cameras_lost,omitempty"`

	Processes []ProcessUse `json:"processes,omitempty"`
	Seconds   []Second     `json:"seconds"` // what happened in each second, all rounds one behind the other
	Curve     []CurvePoint `json:"curve"`   // of Done
	RoundP99  []float64    `json:"round_p99_ms"`
}

// ProcessUse is what one process used under load.
type ProcessUse struct {
	Name string  `json:"name"`
	CPU  float64 `json:"cpu_ms_per_exchange"`
	RSS  int64   `json:"rss_bytes"`  // at the end
	Peak int64   `json:"peak_bytes"` // since it began
}

// Second is one second of a load. Latencies are of the exchanges that were meant to start in it.
type Second struct {
	Scheduled int     `json:"scheduled"`
	Completed int     `json:"completed"` // replies read in this second, whenever the exchange began
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
}

// report sums up a measurement.
func (m *measurement) report() Load {
	l := Load{
		Scheduled:   len(m.samples),
		Errors:      map[string]int{},
		CamerasLost: m.system.cameras.lost.Load(),
		Seconds:     secondsOf(m.samples, m.length),
	}
	var sent, delivered []time.Duration
	for _, s := range m.samples {
		if s.failure != "" {
			l.Errors[s.failure]++
			continue
		}
		if s.sent > 0 {
			sent = append(sent, s.sent)
		}
		if s.delivered > 0 {
			delivered = append(delivered, s.delivered)
		}
	}
	done := doneOf(m.samples)
	l.Completed = len(done)
	l.Throughput = float64(l.Completed) / m.length.Seconds()
	l.Sent, l.Delivered, l.Done, l.Lag = summarise(sent), summarise(delivered), summarise(done), summarise(lagsOf(m.samples))
	l.Curve = curve(done)
	for _, round := range m.rounds {
		l.RoundP99 = append(l.RoundP99, summarise(doneOf(round)).P99)
	}
	for i, p := range m.processes {
		if m.memory[i].rss > 0 && l.Completed > 0 {
			l.Processes = append(l.Processes, ProcessUse{
				Name: p.name,
				CPU:  millis(m.cpu[i]) / float64(l.Completed),
				RSS:  m.memory[i].rss,
				Peak: m.memory[i].peak,
			})
		}
	}
	return l
}

// doneOf returns the latencies of whole exchanges that went well.
func doneOf(samples []sample) []time.Duration {
	var done []time.Duration
	for _, s := range samples {
		if s.failure == "" {
			done = append(done, s.done)
		}
	}
	return done
}

// lagsOf returns how late the driver began each exchange.
func lagsOf(samples []sample) []time.Duration {
	lags := make([]time.Duration, len(samples))
	for i, s := range samples {
		lags[i] = s.lag
	}
	return lags
}

// secondsOf cuts samples into seconds. What ends after the last one counts as of the last one.
func secondsOf(samples []sample, length time.Duration) []Second {
	n := max(1, int((length+time.Second-1)/time.Second))
	seconds, latencies := make([]Second, n), make([][]time.Duration, n)
	second := func(at time.Duration) int { return min(int(at/time.Second), n-1) }
	for _, s := range samples {
		i := second(s.intended)
		seconds[i].Scheduled++
		if s.failure == "" {
			latencies[i] = append(latencies[i], s.done)
			seconds[second(s.intended+s.done)].Completed++
		}
	}
	for i, l := range latencies {
		sum := summarise(l)
		seconds[i].P50, seconds[i].P99 = sum.P50, sum.P99
	}
	return seconds
}

// serverCPU is the CPU of the system's own processes for one exchange, in milliseconds.
func (l Load) serverCPU() float64 {
	sum := 0.0
	for _, p := range l.servers() {
		sum += p.CPU
	}
	return sum
}

// serverRSS is the memory of the system's own processes at the end, in bytes.
func (l Load) serverRSS() int64 {
	var sum int64
	for _, p := range l.servers() {
		sum += p.RSS
	}
	return sum
}

// servers are the processes of the system, without the driver's.
func (l Load) servers() []ProcessUse {
	return slices.DeleteFunc(slices.Clone(l.Processes), func(p ProcessUse) bool { return p.Name == driverProcess })
}

// failed is the number of exchanges that did not go well.
func (l Load) failed() int {
	sum := 0
	for n := range maps.Values(l.Errors) {
		sum += n
	}
	return sum
}
