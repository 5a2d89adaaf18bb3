package camera

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxLogLines = 300
	storageMB   = 59_600
)

// unit is the camera as a machine: what its commands read and change. It keeps its state in memory only: a new process
// is a camera fresh from the factory. It is safe for concurrent use.
type unit struct {
	serial string

	mu         sync.Mutex
	firmware   string
	staged     string // firmware that the next start runs; "": the same
	settings   settings
	volume     int
	started    time.Time
	calibrated time.Time // zero: never
	clips      int
	usedMB     int
	log        []logLine
}

func newUnit(rng *rand.Rand, now time.Time) *unit {
	u := &unit{
		serial:   fmt.Sprintf("SDC%08d", rng.IntN(100_000_000)),
		firmware: fmt.Sprintf("2.%d.%d", rng.IntN(5), rng.IntN(10)),
		settings: factorySettings(),
		volume:   60,
		usedMB:   4_000 + rng.IntN(20_000),
	}
	u.start(now)
	return u
}

// start boots the machine, into the staged firmware where there is one.
func (u *unit) start(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.staged != "" {
		u.firmware, u.staged = u.staged, ""
	}
	u.started = now
	u.note(now, levelInfo, "system", "started, firmware "+u.firmware)
	u.note(now, levelDebug, "detection", "model loaded, 29.8 frames a second")
	u.note(now, levelInfo, "camera", "infra-red lamp on")
}

// view is the machine's state at one moment.
type view struct {
	Firmware   string
	Settings   settings
	Volume     int
	Started    time.Time
	Calibrated time.Time
	Clips      int
	UsedMB     int
}

func (u *unit) view() view {
	u.mu.Lock()
	defer u.mu.Unlock()
	return view{
		Firmware: u.firmware, Settings: u.settings, Volume: u.volume, Started: u.started,
		Calibrated: u.calibrated, Clips: u.clips, UsedMB: u.usedMB,
	}
}

// setVolume returns the volume before.
func (u *unit) setVolume(volume int) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	before := u.volume
	u.volume = volume
	return before
}

// configure lets change work on a copy of the settings, and keeps the copy if it is in order.
func (u *unit) configure(change func(*settings) error) (settings, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.settings
	if err := change(&s); err != nil {
		return settings{}, err
	}
	if err := s.validate(); err != nil {
		return settings{}, err
	}
	u.settings = s
	return s, nil
}

func (u *unit) calibrate(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.calibrated = now
}

// addClip makes room for a clip and returns its number.
func (u *unit) addClip(megabytes int) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clips++
	u.usedMB = min(u.usedMB+megabytes, storageMB) // a full card overwrites its oldest clips
	return u.clips
}

func (u *unit) stage(version string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.staged = version
}

// settings is how the camera watches and warns.
type settings struct {
	Sensitivity          string  `json:"sensitivity"`
	EyesClosedMS         int     `json:"eyes_closed_ms"`
	YawnDetection        bool    `json:"yawn_detection"`
	YawnsPer10Min        int     `json:"yawns_per_10_min"`
	HeadDownMS           int     `json:"head_down_ms"`
	DistractionDetection bool    `json:"distraction_detection"`
	MinSpeedKMH          int     `json:"min_speed_kmh"`
	Alert                warning `json:"alert"`
	Language             string  `json:"language"`
	UploadEvents         bool    `json:"upload_events"`
}

// warning is how the driver is warned.
type warning struct {
	Sound     string `json:"sound"`
	Vibration bool   `json:"vibration"`
	RepeatS   int    `json:"repeat_s"`
}

func factorySettings() settings {
	return settings{
		Sensitivity: "normal", EyesClosedMS: 1_500, YawnDetection: true, YawnsPer10Min: 5, HeadDownMS: 2_000,
		DistractionDetection: true, MinSpeedKMH: 20, Alert: warning{Sound: "voice", Vibration: true, RepeatS: 10},
		Language: "en", UploadEvents: true,
	}
}

func (s settings) validate() error {
	language := regexp.MustCompile(`^[a-z]{2,3}(-[A-Z]{2})?$`)
	return errors.Join(
		oneOf("sensitivity", s.Sensitivity, "low", "normal", "high"),
		inRange("eyes_closed_ms", s.EyesClosedMS, 500, 5_000),
		inRange("yawns_per_10_min", s.YawnsPer10Min, 1, 20),
		inRange("head_down_ms", s.HeadDownMS, 500, 10_000),
		inRange("min_speed_kmh", s.MinSpeedKMH, 0, 120),
		oneOf("alert.sound", s.Alert.Sound, "none", "tone", "voice"),
		inRange("alert.repeat_s", s.Alert.RepeatS, 3, 60),
		check(language.MatchString(s.Language), "language must be a tag such as en or pt-BR"),
	)
}

// logLevel is the weight of a log line; a greater one is worse.
type logLevel int

// The levels of the camera's log.
const (
	levelDebug logLevel = iota
	levelInfo
	levelWarning
	levelError
)

// levelNames returns the names of the levels, the lightest first.
func levelNames() []string { return []string{"debug", "info", "warning", "error"} }

type logLine struct {
	at        time.Time
	level     logLevel
	component string
	text      string
}

// String is the line as the camera prints it.
func (l logLine) String() string {
	return fmt.Sprintf("%s %-7s %s: %s", l.at.UTC().Format(time.RFC3339), levelNames()[l.level], l.component, l.text)
}

// write adds a line to the log; the oldest makes room.
func (u *unit) write(now time.Time, level logLevel, component, text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.note(now, level, component, text)
}

// note is write for a holder of the lock.
func (u *unit) note(now time.Time, level logLevel, component, text string) {
	if len(u.log) == maxLogLines {
		u.log = slices.Delete(u.log, 0, 1)
	}
	u.log = append(u.log, logLine{now, level, component, text})
}

// logs returns the newest lines that match, the oldest first.
func (u *unit) logs(match func(logLine) bool, limit int) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var lines []string
	for _, l := range slices.Backward(u.log) {
		if len(lines) == limit {
			break
		}
		if match(l) {
			lines = append(lines, l.String())
		}
	}
	slices.Reverse(lines)
	return strings.Join(lines, "\n")
}
