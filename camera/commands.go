package camera

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// call is one command in execution.
type call struct {
	id       string
	args     json.RawMessage
	at       time.Time
	progress func(result any) // publishes a progress reply
}

// outcome is the end of a command: its final reply, and what follows it.
type outcome struct {
	reply
	restart bool          // the camera restarts once the reply is acknowledged
	delay   time.Duration // and after so long
}

func answer(result any) outcome        { return outcome{reply: ok(result)} }
func refuse(code, text string) outcome { return outcome{reply: failed(code, text)} }
func invalid(err error) outcome        { return refuse(codeInvalidArguments, oneLine(err)) }

// oneLine puts the faults of a joined error behind one another.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// handler returns what executes a command; false: the camera does not know it.
func (c *Camera) handler(name string) (handle func(context.Context, call) outcome, known bool) {
	switch name {
	case "ping":
		return c.pong, true
	case "get_status":
		return c.getStatus, true
	case "get_position":
		return c.getPosition, true
	case "snapshot":
		return c.snapshot, true
	case "record_clip":
		return c.recordClip, true
	case "set_config":
		return c.setConfig, true
	case "set_volume":
		return c.setVolume, true
	case "calibrate":
		return c.calibrate, true
	case "get_logs":
		return c.getLogs, true
	case "run_diagnostics":
		return c.runDiagnostics, true
	case "reboot":
		return c.reboot, true
	case "update_firmware":
		return c.updateFirmware, true
	}
	return nil, false
}

// step lets a piece of a long command take its time. It ends early when the camera stops.
func (c *Camera) step(ctx context.Context) { sleep(ctx, c.cfg.Pace) }

func (c *Camera) pong(_ context.Context, k call) outcome {
	var none struct{}
	if err := decode(k.args, &none); err != nil {
		return invalid(err)
	}
	return answer(map[string]any{
		"time":   k.at.UTC().Format(time.RFC3339Nano),
		"uptime": uptime(c.unit.view(), k.at),
	})
}

func uptime(v view, now time.Time) int { return int(now.Sub(v.Started).Seconds()) }

func (c *Camera) getStatus(_ context.Context, k call) outcome {
	var args struct {
		Sections []string `json:"sections"`
	}
	if err := decode(k.args, &args); err != nil {
		return invalid(err)
	}
	sections, err := subset("sections", args.Sections,
		[]string{"system", "storage", "network", "camera", "detection", "events"})
	if err != nil {
		return invalid(err)
	}
	status := make(map[string]any)
	for _, s := range sections {
		status[s] = c.status(s, k.at)
	}
	return answer(status)
}

// status returns one section of the status.
func (c *Camera) status(section string, now time.Time) map[string]any {
	v, d := c.unit.view(), c.drive.driver(now)
	switch section {
	case "system":
		return map[string]any{
			"name": c.displayName(), "serial": c.unit.serial, "firmware": v.Firmware, "uptime": uptime(v, now),
			"temperature": c.drive.temperature(now), "volume": v.Volume,
		}
	case "storage":
		return map[string]any{"total_mb": storageMB, "used_mb": v.UsedMB, "clips": v.Clips, "healthy": true}
	case "network":
		return map[string]any{"type": "lte", "signal_dbm": c.drive.signal(now), "reconnects": c.Stats().Reconnects}
	case "camera":
		return map[string]any{"infrared": true, "frames_per_second": 29.8, "face_in_view": true, "calibrated": calibration(v)}
	case "detection":
		return map[string]any{"sensitivity": v.Settings.Sensitivity, "driver": d}
	default: // events
		return map[string]any{"yawns_10_min": d.Yawns, "eyes_closed": int(12 * d.EyesClosed), "looked_away": int(8 * (1 - d.Attention))}
	}
}

// calibration returns when the camera was calibrated, nil for never.
func calibration(v view) any {
	if v.Calibrated.IsZero() {
		return nil
	}
	return v.Calibrated.UTC().Format(time.RFC3339)
}

func (c *Camera) getPosition(_ context.Context, k call) outcome {
	args := struct {
		MaxAge int `json:"max_age"`
	}{30}
	if err := decode(k.args, &args); err != nil {
		return invalid(err)
	}
	if err := inRange("max_age", args.MaxAge, 0, 3_600); err != nil {
		return invalid(err)
	}
	return answer(c.drive.position(k.at))
}

func (c *Camera) snapshot(_ context.Context, k call) outcome {
	args := struct {
		View    string `json:"view"`
		Width   int    `json:"width"`
		Quality int    `json:"quality"`
	}{"driver", pictureWidth, 70}
	if err := decode(k.args, &args); err != nil {
		return invalid(err)
	}
	if err := errors.Join(
		oneOf("view", args.View, "driver", "road"),
		inRange("width", args.Width, 160, 1_920),
		check(args.Width%16 == 0, "width must be a multiple of 16"),
		inRange("quality", args.Quality, 10, 95),
	); err != nil {
		return invalid(err)
	}
	return answer(picture{
		Camera: c.displayName(), Request: k.id, At: k.at, Driver: c.drive.driver(k.at),
		Speed: c.drive.position(k.at).SpeedKMH, Road: args.View == "road", Width: args.Width, Quality: args.Quality,
	})
}

func (c *Camera) recordClip(ctx context.Context, k call) outcome {
	args := struct {
		View     string `json:"view"`
		Duration int    `json:"duration"`
		Before   int    `json:"before"`
		Audio    bool   `json:"audio"`
		Reason   string `json:"reason"`
	}{View: "driver"}
	if err := decode(k.args, &args); err != nil {
		return invalid(err)
	}
	if err := errors.Join(
		oneOf("view", args.View, "driver", "road", "both"),
		inRange("duration", args.Duration, 1, 120),
		inRange("before", args.Before, 0, 30),
		check(len(args.Reason) <= 4*200, "reason must have at most 200 characters"), // of up to 4 bytes each
	); err != nil {
		return invalid(err)
	}
	for _, percent := range []int{0, 50, 100} {
		k.progress(map[string]any{"phase": "recording", "percent": percent})
		c.step(ctx)
	}
	length := args.Duration + args.Before
	number := c.unit.addClip(1 + length/2)
	return answer(map[string]any{
		"clip":     fmt.Sprintf("%s-%s-%04d.mp4", k.at.UTC().Format("20060102-150405"), args.View, number),
		"duration": length, "size_bytes": length * 412_000, "audio": args.Audio,
		"sha256": fmt.Sprintf("%x", sha256.Sum256([]byte(k.id))),
	})
}

func (c *Camera) setConfig(_ context.Context, k call) outcome {
	s, err := c.unit.configure(func(s *settings) error {
		var given map[string]json.RawMessage
		if err := decode(k.args, &given); err != nil {
			return err
		}
		if len(given) == 0 {
			return errors.New("at least one setting must be given")
		}
		return decode(k.args, s) // on top of the settings as they are
	})
	if err != nil {
		return invalid(err)
	}
	c.unit.write(k.at, levelInfo, "system", "settings changed")
	return answer(s)
}

func (c *Camera) setVolume(_ context.Context, k call) outcome {
	args := struct {
		Volume int `json:"volume"`
	}{-1} // it must be given
	if err := decode(k.args, &args); err != nil {
		return invalid(err)
	}
	if err := inRange("volume", args.Volume, 0, 100); err != nil {
		return invalid(err)
	}
	before := c.unit.setVolume(args.Volume)
	c.unit.write(k.at, levelInfo, "audio", fmt.Sprintf("volume %d", args.Volume))
	return answer(map[string]any{"volume": args.Volume, "previous": before})
}

func (c *Camera) calibrate(ctx context.Context, k call) outcome {
	args := struct {
		Mode     string `json:"mode"`
		SeatSide string `json:"seat_side"`
	}{"quick", "left"}
	if err := decode(k.args, &args); err != nil {
		return invalid(err)
	}
	if err := errors.Join(
		oneOf("mode", args.Mode, "quick", "full"),
		oneOf("seat_side", args.SeatSide, "left", "right"),
	); err != nil {
		return invalid(err)
	}
	for i, phase := range []string{"waiting_for_the_car_to_stand", "learning_the_pose", "checking"} {
		k.progress(map[string]any{"phase": phase, "percent": i * 40})
		c.step(ctx)
	}
	c.unit.calibrate(k.at)
	c.unit.write(k.at, levelInfo, "detection", "calibrated, "+args.Mode)
	d := c.drive.driver(k.at)
	return answer(map[string]any{
		"mode": args.Mode, "seat_side": args.SeatSide, "confidence": 0.97,
		"pose": map[string]any{"yaw": d.Yaw, "pitch": d.Pitch},
	})
}

func (c *Camera) getLogs(_ context.Context, k call) outcome {
	args := struct {
		Level     string    `json:"level"`
		Lines     int       `json:"lines"`
		Since     time.Time `json:"since"`
		Component string    `json:"component"`
	}{Level: "info", Lines: 200}
	if err := decode(k.args, &args); err != nil {
		return invalid(err)
	}
	if err := errors.Join(
		oneOf("level", args.Level, levelNames()...),
		inRange("lines", args.Lines, 1, 2_000),
	); err != nil {
		return invalid(err)
	}
	level := logLevel(slices.Index(levelNames(), args.Level))
	return answer(c.unit.logs(func(l logLine) bool {
		return l.level >= level && !l.at.Before(args.Since) && (args.Component == "" || l.component == args.Component)
	}, args.Lines))
}

func (c *Camera) runDiagnostics(ctx context.Context, k call) outcome {
	var args struct {
		Tests []string `json:"tests"`
	}
	if err := decode(k.args, &args); err != nil {
		return invalid(err)
	}
	tests, err := subset("tests", args.Tests,
		[]string{"lens", "infrared", "speaker", "microphone", "vibration", "storage", "satellite", "network"})
	if err != nil {
		return invalid(err)
	}
	var results []map[string]any
	for i, test := range tests {
		c.step(ctx)
		result := map[string]any{"test": test, "passed": true}
		results = append(results, result)
		k.progress(map[string]any{"phase": test, "passed": true, "percent": 100 * (i + 1) / len(tests)})
	}
	return answer(map[string]any{"passed": true, "tests": results})
}

func (c *Camera) reboot(_ context.Context, k call) outcome {
	var args struct {
		Delay int `json:"delay"`
		parking
	}
	if err := decode(k.args, &args); err != nil {
		return invalid(err)
	}
	if err := inRange("delay", args.Delay, 0, 300); err != nil {
		return invalid(err)
	}
	if out, refused := c.refuseMoving(args.parking, k.at); refused {
		return out
	}
	c.unit.write(k.at, levelWarning, "system", "restart was asked for")
	out := answer(map[string]any{"restarting_in": args.Delay})
	out.restart, out.delay = true, time.Duration(args.Delay)*time.Second
	return out
}

// parking is the argument of commands that may want the car to stand. Only a true that was sent refuses: to assume it
// is the sender's part.
type parking struct {
	OnlyWhenParked bool `json:"only_when_parked"`
}

func (c *Camera) refuseMoving(p parking, now time.Time) (outcome, bool) {
	speed := c.drive.position(now).SpeedKMH
	if !p.OnlyWhenParked || speed < 1 {
		return outcome{}, false
	}
	return refuse(codeCarMoving, fmt.Sprintf("the car drives at %.0f km/h", speed)), true
}

func (c *Camera) updateFirmware(ctx context.Context, k call) outcome {
	var args struct {
		Version string `json:"version"`
		URL     string `json:"url"`
		SHA256  string `json:"sha256"`
		parking
	}
	if err := decode(k.args, &args); err != nil {
		return invalid(err)
	}
	version := regexp.MustCompile(`^[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}(-[0-9A-Za-z.]{1,32})?$`)
	hash := regexp.MustCompile(`^[0-9a-f]{64}$`)
	if err := errors.Join(
		check(version.MatchString(args.Version), "version must be three numbers, such as 2.4.1"),
		check(strings.HasPrefix(args.URL, "https://") && len(args.URL) <= 1_000, "url must begin with https://"),
		check(hash.MatchString(args.SHA256), "sha256 must be 64 hexadecimal digits, lower case"),
	); err != nil {
		return invalid(err)
	}
	if out, refused := c.refuseMoving(args.parking, k.at); refused {
		return out
	}
	for _, p := range []struct {
		phase   string
		percent int
	}{{"loading", 0}, {"loading", 40}, {"loading", 80}, {"checking", 90}, {"installing", 95}} {
		k.progress(map[string]any{"phase": p.phase, "percent": p.percent})
		c.step(ctx)
	}
	before := c.unit.view().Firmware
	c.unit.stage(args.Version)
	c.unit.write(k.at, levelWarning, "system", "firmware "+args.Version+" installed")
	out := answer(map[string]any{"version": args.Version, "previous": before, "restarting_in": 0})
	out.restart = true
	return out
}
