package camera

import (
	"fmt"
	"image"
	"image/color"
	"math"
)

// drawRoad draws the road ahead: sky, houses, lanes that come nearer, and the car in front. It returns where
// that car is.
func (p picture) drawRoad(c canvas) image.Rectangle {
	const horizon = 210.0
	driven := seconds(p.At) * p.Speed / 3.6
	c.shade(func(x, y float64) float64 {
		if y < horizon {
			return 176 - 0.16*(horizon-y)
		}
		return 84 - 0.09*(y-horizon)
	})
	for i := range 9 { // houses on both sides
		x := float64(i)*80 - math.Mod(driven/6, 80)
		height := 40 + 34*math.Abs(math.Sin(float64(i)*2.3))
		if middle := math.Abs(x + 30 - pictureWidth/2); middle < 90 {
			height *= middle / 180
		}
		c.paint(x, horizon-height, x+60, horizon, func(px, py float64) (float64, float64) {
			window := math.Mod(px-x, 15) > 8 && math.Mod(horizon-py, 16) > 9
			if window {
				return 150, 1
			}
			return 104 - 6*float64(i%3), 1
		})
	}
	c.paint(0, horizon, pictureWidth, pictureHeight, func(x, y float64) (float64, float64) {
		depth := (y - horizon) / (pictureHeight - horizon)
		half := 14 + 300*depth
		grey := 58 + 16*depth
		if lane := math.Abs(x - pictureWidth/2); math.Abs(lane-half+8*depth) < 1+4*depth {
			grey = 190
		}
		ahead := 1 / (depth + 0.06) // metres, more or less
		if math.Abs(x-pictureWidth/2+110*depth) < 1+4*depth && math.Mod(ahead*4+driven, 9) < 4 {
			grey = 200
		}
		return grey, half - math.Abs(x-pictureWidth/2) + 0.5
	})
	return p.drawCarAhead(c, horizon)
}

func (p picture) drawCarAhead(c canvas, horizon float64) image.Rectangle {
	size := 30 + 9*math.Sin(seconds(p.At)/9)
	x, y := pictureWidth/2+26.0, horizon+1.3*size
	c.blob(blob{x: x, y: y + 0.62*size, rx: 1.1 * size, ry: 0.16 * size, middle: 24, rim: 50})
	c.stroke(x-0.7*size, y+0.2*size, x+0.7*size, y+0.2*size, 0.7*size, 122)
	c.stroke(x-0.45*size, y-0.35*size, x+0.45*size, y-0.35*size, 0.55*size, 96)
	c.stroke(x-0.4*size, y-0.35*size, x+0.4*size, y-0.35*size, 0.3*size, 44)
	for _, side := range []float64{-1, 1} {
		c.blob(blob{x: x + side*0.78*size, y: y + 0.15*size, rx: 0.16 * size, ry: 0.1 * size, middle: 230, rim: 170})
	}
	return image.Rect(int(x-1.3*size), int(y-0.8*size), int(x+1.3*size), int(y+0.75*size))
}

// drawMark marks the car in front with its distance, which its size tells.
func (p picture) drawMark(c canvas, box image.Rectangle) {
	blue := color.RGBA{96, 190, 255, 255}
	c.corners(box, 14, 2, blue)
	write(c, image.Pt(box.Min.X, box.Min.Y-12), 1, blue, fmt.Sprintf("CAR %d m", 2400/box.Dx()))
}
