package camera

import (
	"image"
	"image/color"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestDrive_StaysInTheCityAndOnTheRoad(t *testing.T) {
	for seed := range uint64(5) {
		d := newDrive(rand.New(rand.NewPCG(seed, 1)))
		start := time.Unix(1_795_500_000, 0)
		before := d.position(start)
		stood, drove := false, false
		for s := 1; s <= 3_600; s++ {
			p := d.position(start.Add(time.Duration(s) * time.Second))
			if math.Abs(p.Latitude-centreLatitude) > 0.1 || math.Abs(p.Longitude-centreLongitude) > 0.15 {
				t.Fatalf("seed %d: out of the city at %+v", seed, p)
			}
			north := (p.Latitude - before.Latitude) * metresPerDegree
			east := (p.Longitude - before.Longitude) * metresPerDegree * math.Cos(centreLatitude*math.Pi/180)
			if moved, fastest := math.Hypot(north, east), max(p.SpeedKMH, before.SpeedKMH)/3.6+1; moved > fastest {
				t.Fatalf("seed %d: moved %.1f m in a second at %.1f km/h", seed, moved, p.SpeedKMH)
			}
			if p.SpeedKMH < 0 || p.SpeedKMH > 65 || p.Heading < 0 || p.Heading >= 360 {
				t.Fatalf("seed %d: %+v", seed, p)
			}
			stood, drove = stood || p.SpeedKMH == 0, drove || p.SpeedKMH > 20
			before = p
		}
		if !stood || !drove {
			t.Errorf("seed %d: stood %t, drove %t", seed, stood, drove)
		}
	}
}

func TestDrive_DriversOfAllStates(t *testing.T) {
	states := map[string]bool{}
	for seed := range uint64(20) {
		d := newDrive(rand.New(rand.NewPCG(seed, 1)))
		for s := range 720 {
			v := d.driver(time.Unix(1_795_500_000, 0).Add(time.Duration(s) * 5 * time.Second))
			states[v.State] = true
			states["yawning"] = states["yawning"] || v.Yawning
			if v.Attention < 0 || v.Attention > 1 || v.EyesClosed < 0 || v.EyesClosed > 1 || v.Yawns < 0 {
				t.Fatalf("%+v", v)
			}
		}
	}
	for _, s := range []string{alert, tired, drowsy, "yawning"} {
		if !states[s] {
			t.Errorf("no driver is ever %s", s)
		}
	}
}

func TestNew_SameSeedSameCamera(t *testing.T) {
	at := time.Unix(1_795_500_000, 0)
	look := func(seed uint64) []any {
		c := idle(t, Config{Seed: seed})
		v := c.unit.view()
		return []any{c.unit.serial, v.Firmware, v.UsedMB, c.drive.position(at), c.drive.driver(at)}
	}
	one, again, two := look(1), look(1), look(2)
	for i := range one {
		if one[i] != again[i] {
			t.Errorf("one seed: %v and %v", one[i], again[i])
		}
	}
	if one[0] == two[0] || one[3] == two[3] {
		t.Error("two seeds give one camera")
	}
}

func TestFont_EveryCharacterLooksDifferent(t *testing.T) {
	if len(font) != len(fontOrder)/fontRow*glyphHeight*fontLine {
		t.Fatalf("the font has %d bytes", len(font))
	}
	look := func(c byte) string {
		var b strings.Builder
		for y := range glyphHeight {
			for x := range glyphWidth {
				if dot(c, x, y) {
					b.WriteByte('#')
				} else {
					b.WriteByte('.')
				}
			}
		}
		return b.String()
	}
	seen := map[string]byte{look(' '): ' '}
	for i := range len(fontOrder) {
		glyph := look(fontOrder[i])
		if other, taken := seen[glyph]; taken {
			t.Errorf("%c looks like %c", fontOrder[i], other)
		}
		seen[glyph] = fontOrder[i]
	}
	if look('\x07') != look('?') {
		t.Error("an unknown character is no question mark")
	}
}

func TestWrite_ClipsAtTheEdge(t *testing.T) {
	c := newCanvas(20, 10)
	write(c, image.Pt(-3, 1), 1, color.White, "WWWWWWWW")
	if got := textWidth(2, "ab"); got != 22 {
		t.Errorf("width %d", got)
	}
	if c.RGBAAt(19, 3).A == 0 && c.RGBAAt(0, 3).A == 0 {
		t.Error("nothing was written")
	}
}

func TestCanvas_ScalesWithoutChangingAFlatColour(t *testing.T) {
	c := newCanvas(64, 48)
	c.fill(c.Rect, color.RGBA{10, 200, 90, 255})
	for _, size := range []image.Point{{16, 12}, {64, 48}, {192, 144}} {
		s := c.scaled(size.X, size.Y)
		if s.Rect.Size() != size {
			t.Fatalf("size %v, want %v", s.Rect.Size(), size)
		}
		for _, p := range []image.Point{{0, 0}, {size.X / 2, size.Y / 2}, {size.X - 1, size.Y - 1}} {
			if got := s.RGBAAt(p.X, p.Y); got.R < 9 || got.R > 10 || got.G < 199 || got.B < 89 {
				t.Errorf("%v at %v: %v", size, p, got)
			}
		}
	}
}
