package camera

import (
	"math"
	"math/rand/v2"
	"time"
)

// drive is the world around one camera: a taxi on its round through a city and the driver in it. It is a function of
// seed and time alone and never changes, so it needs no lock, and the same moment looks the same whenever it is asked for.
type drive struct {
	corners []corner // the round, closed: the last street leads back to the first corner
	lengths []float64
	round   float64 // metres

	cruise  float64    // mean speed, stops included, m/s
	rhythm  float64    // seconds from one traffic light to the next
	phases  [5]float64 // of the driver's slow and fast waves
	stamina float64    // 0 … 1: how tired this driver gets
}

// corner is a street corner, in metres east and north of the city's centre.
type corner struct{ east, north float64 }

const (
	centreLatitude  = 55.7539
	centreLongitude = 37.6208
	block           = 260.0    // metres between parallel streets
	metresPerDegree = 111_320. // of latitude
	standing        = 0.25     // share of the time that a taxi stands
)

func newDrive(rng *rand.Rand) *drive {
	d := &drive{
		cruise:  4 + 2.5*rng.Float64(),
		rhythm:  60 + 40*rng.Float64(),
		stamina: rng.Float64(),
	}
	for i := range d.phases {
		d.phases[i] = 2 * math.Pi * rng.Float64()
	}
	d.corners = newRound(rng)
	for i, from := range d.corners {
		to := d.corners[(i+1)%len(d.corners)]
		length := math.Hypot(to.east-from.east, to.north-from.north)
		d.lengths = append(d.lengths, length)
		d.round += length
	}
	return d
}

// newRound lays out an L of streets: six corners on the grid.
func newRound(rng *rand.Rand) []corner {
	streets := func(low, more int) float64 { return block * float64(low+rng.IntN(more)) }
	west, south := -streets(2, 12), -streets(2, 12)
	width, height := streets(6, 10), streets(6, 10)
	inEast, inNorth := streets(1, 4), streets(1, 4)
	return []corner{
		{west, south},
		{west + width, south},
		{west + width, south + height - inNorth},
		{west + width - inEast, south + height - inNorth},
		{west + width - inEast, south + height},
		{west, south + height},
	}
}

// position is where the taxi is.
type position struct {
	Latitude  float64   `json:"latitude"`
	Longitude float64   `json:"longitude"`
	SpeedKMH  float64   `json:"speed_kmh"`
	Heading   float64   `json:"heading"` // degrees from north, clockwise
	AccuracyM float64   `json:"accuracy_m"`
	Fix       bool      `json:"fix"`
	At        time.Time `json:"at"`
}

// position returns where the taxi is at the time. From one light to the next it stands for a while, then drives.
func (d *drive) position(at time.Time) position {
	whole, phase := math.Modf(seconds(at) / d.rhythm)
	moving := clamp((phase - standing) / (1 - standing)) // 0 … 1 of the way to the next light
	turn := 2 * math.Pi * moving
	leg := d.cruise * d.rhythm
	driven := leg * (whole + moving - math.Sin(turn)/(2*math.Pi))
	speed := d.cruise / (1 - standing) * (1 - math.Cos(turn))

	along := math.Mod(driven, d.round)
	i := 0
	for i < len(d.corners)-1 && along > d.lengths[i] {
		along -= d.lengths[i]
		i++
	}
	from, to := d.corners[i], d.corners[(i+1)%len(d.corners)]
	part := min(along/d.lengths[i], 1)
	east := from.east + part*(to.east-from.east)
	north := from.north + part*(to.north-from.north)
	heading := math.Mod(math.Atan2(to.east-from.east, to.north-from.north)*180/math.Pi+360, 360)
	shrink := math.Cos(centreLatitude * math.Pi / 180)
	return position{
		Latitude:  round(centreLatitude+north/metresPerDegree, 6),
		Longitude: round(centreLongitude+east/(metresPerDegree*shrink), 6),
		SpeedKMH:  round(speed*3.6, 1),
		Heading:   round(heading, 1),
		AccuracyM: 4,
		Fix:       true,
		At:        at.UTC(),
	}
}

// driver is how the person at the wheel does.
type driver struct {
	State      string  `json:"state"`       // alert, tired, drowsy
	Attention  float64 `json:"attention"`   // 0 … 1
	EyesClosed float64 `json:"eyes_closed"` // share of the last minute, 0 … 1
	Yawns      int     `json:"yawns"`       // in the last ten minutes
	Yawning    bool    `json:"yawning"`
	Yaw        float64 `json:"head_yaw"`   // degrees, to the right
	Pitch      float64 `json:"head_pitch"` // degrees, down
}

// The driver's states.
const (
	alert  = "alert"
	tired  = "tired"
	drowsy = "drowsy"
)

// driver returns how the driver does at the time: tired in slow waves of half an hour, with small moves on top.
func (d *drive) driver(at time.Time) driver {
	t := seconds(at)
	wave := func(i int, period float64) float64 { return math.Sin(2*math.Pi*t/period + d.phases[i]) }
	fatigue := clamp(0.2 + 0.4*d.stamina + 0.25*wave(0, 1700) + 0.1*wave(1, 613) + 0.05*wave(2, 97))
	v := driver{
		Attention:  round(clamp(1-0.85*math.Pow(fatigue, 1.5)-0.08*math.Abs(wave(3, 31))), 2),
		EyesClosed: round(clamp(0.03+0.6*fatigue*fatigue+0.02*wave(4, 17)), 2),
		Yawns:      int(6 * fatigue),
		Yawning:    fatigue > 0.45 && wave(3, 47) > 0.8,
		Yaw:        round(10*wave(4, 23), 1),
		Pitch:      round(12*fatigue*fatigue+2*wave(3, 13), 1),
	}
	switch {
	case fatigue < 0.4:
		v.State = alert
	case fatigue < 0.65:
		v.State = tired
	default:
		v.State = drowsy
	}
	return v
}

// temperature returns degrees Celsius inside the camera.
func (d *drive) temperature(at time.Time) float64 {
	return round(44+6*math.Sin(2*math.Pi*seconds(at)/5400+d.phases[0])+math.Sin(seconds(at)/40), 1)
}

// signal returns the strength of the mobile network in dBm.
func (d *drive) signal(at time.Time) int {
	return int(-78 + 14*math.Sin(seconds(at)/75+d.phases[1]))
}

// seconds is the time as the waves take it: since 1970, exact to the millisecond.
func seconds(at time.Time) float64 { return float64(at.UnixMilli()) / 1000 }

func clamp(v float64) float64 { return min(max(v, 0), 1) }

func round(v float64, digits int) float64 {
	scale := math.Pow10(digits)
	return math.Round(v*scale) / scale
}
