package camera

import (
	"image"
	"image/color"
	"image/draw"
	"math"
)

// canvas is a picture in the making, with the few smooth shapes that a face needs. Greys are 0 to 255.
type canvas struct{ *image.RGBA }

func newCanvas(width, height int) canvas {
	return canvas{image.NewRGBA(image.Rect(0, 0, width, height))}
}

// scaled returns a copy in another size: smooth when it grows, averaged when it shrinks.
func (c canvas) scaled(width, height int) canvas {
	out := newCanvas(width, height)
	sx, sy := float64(c.Rect.Dx())/float64(width), float64(c.Rect.Dy())/float64(height)
	n := int(math.Ceil(max(sx, sy, 1))) // samples of a pixel, along each side
	for y := range height {
		for x := range width {
			var sum [3]float64
			for i := range n * n {
				px := (float64(x)+(float64(i%n)+0.5)/float64(n))*sx - 0.5
				py := (float64(y)+(float64(i/n)+0.5)/float64(n))*sy - 0.5
				c.sample(px, py, &sum)
			}
			k := float64(n * n)
			out.SetRGBA(x, y, color.RGBA{toByte(sum[0] / k), toByte(sum[1] / k), toByte(sum[2] / k), 255})
		}
	}
	return out
}

// sample adds the colour between four pixels.
func (c canvas) sample(x, y float64, sum *[3]float64) {
	x0, y0 := math.Floor(x), math.Floor(y)
	fx, fy := x-x0, y-y0
	for i, weight := range [4]float64{(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy} {
		px := min(max(int(x0)+i%2, 0), c.Rect.Max.X-1)
		py := min(max(int(y0)+i/2, 0), c.Rect.Max.Y-1)
		p := c.RGBAAt(px, py)
		sum[0] += weight * float64(p.R)
		sum[1] += weight * float64(p.G)
		sum[2] += weight * float64(p.B)
	}
}

// shade sets the grey of every pixel.
func (c canvas) shade(grey func(x, y float64) float64) {
	for y := c.Rect.Min.Y; y < c.Rect.Max.Y; y++ {
		for x := c.Rect.Min.X; x < c.Rect.Max.X; x++ {
			v := toByte(grey(float64(x), float64(y)))
			c.SetRGBA(x, y, color.RGBA{v, v, v, 255})
		}
	}
}

// blob is an ellipse that runs from one grey at its middle to another at its rim, as a lit round body does.
type blob struct {
	x, y, rx, ry float64
	middle, rim  float64
}

func (c canvas) blob(b blob) {
	edge := min(b.rx, b.ry)
	c.paint(b.x-b.rx, b.y-b.ry, b.x+b.rx, b.y+b.ry, func(x, y float64) (grey, cover float64) {
		dx, dy := (x-b.x)/b.rx, (y-b.y)/b.ry
		r2 := dx*dx + dy*dy
		return b.middle + (b.rim-b.middle)*r2, (1-math.Sqrt(r2))*edge + 0.5
	})
}

// glow mixes a grey in, strongest in the middle and fading to nothing, as light and shadow on skin do.
func (c canvas) glow(x, y, rx, ry, grey, strength float64) {
	c.paint(x-rx, y-ry, x+rx, y+ry, func(px, py float64) (float64, float64) {
		left := 1 - sq((px-x)/rx) - sq((py-y)/ry)
		return grey, strength * sq(max(left, 0))
	})
}

// stroke draws a line with round ends.
func (c canvas) stroke(x0, y0, x1, y1, width, grey float64) {
	half := width / 2
	dx, dy := x1-x0, y1-y0
	length2 := max(dx*dx+dy*dy, 1e-9)
	c.paint(min(x0, x1)-half, min(y0, y1)-half, max(x0, x1)+half, max(y0, y1)+half, func(x, y float64) (float64, float64) {
		t := clamp(((x-x0)*dx + (y-y0)*dy) / length2)
		return grey, half - math.Hypot(x-x0-t*dx, y-y0-t*dy) + 0.5
	})
}

// arc draws a curve that hangs from its two ends, sagging in the middle (negative: arched).
func (c canvas) arc(x0, x1, y, sag, width, grey float64) {
	const pieces = 8
	point := func(i int) (float64, float64) {
		t := float64(i) / pieces
		return x0 + t*(x1-x0), y + sag*4*t*(1-t)
	}
	for i := range pieces {
		ax, ay := point(i)
		bx, by := point(i + 1)
		c.stroke(ax, ay, bx, by, width, grey)
	}
}

// paint mixes a grey into the pixels of a rectangle, as much as each is covered (0 … 1).
func (c canvas) paint(x0, y0, x1, y1 float64, pixel func(x, y float64) (grey, cover float64)) {
	area := image.Rect(int(x0)-1, int(y0)-1, int(x1)+2, int(y1)+2).Intersect(c.Rect)
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			grey, cover := pixel(float64(x), float64(y))
			if cover <= 0 {
				continue
			}
			cover = min(cover, 1)
			old := float64(c.RGBAAt(x, y).R)
			v := toByte(old + (grey-old)*cover)
			c.SetRGBA(x, y, color.RGBA{v, v, v, 255})
		}
	}
}

// frame draws the outline of a rectangle.
func (c canvas) frame(r image.Rectangle, width int, ink color.Color) {
	c.fill(image.Rect(r.Min.X, r.Min.Y, r.Max.X, r.Min.Y+width), ink)
	c.fill(image.Rect(r.Min.X, r.Max.Y-width, r.Max.X, r.Max.Y), ink)
	c.fill(image.Rect(r.Min.X, r.Min.Y, r.Min.X+width, r.Max.Y), ink)
	c.fill(image.Rect(r.Max.X-width, r.Min.Y, r.Max.X, r.Max.Y), ink)
}

// corners draws only the corners of a rectangle's outline, as a detector marks what it found.
func (c canvas) corners(r image.Rectangle, arm, width int, ink color.Color) {
	for _, x := range []int{r.Min.X, r.Max.X - arm} {
		c.fill(image.Rect(x, r.Min.Y, x+arm, r.Min.Y+width), ink)
		c.fill(image.Rect(x, r.Max.Y-width, x+arm, r.Max.Y), ink)
	}
	for _, y := range []int{r.Min.Y, r.Max.Y - arm} {
		c.fill(image.Rect(r.Min.X, y, r.Min.X+width, y+arm), ink)
		c.fill(image.Rect(r.Max.X-width, y, r.Max.X, y+arm), ink)
	}
}

// fill covers a rectangle, letting through what the ink's alpha lets.
func (c canvas) fill(r image.Rectangle, ink color.Color) {
	draw.Draw(c, r, image.NewUniform(ink), image.Point{}, draw.Over)
}

func toByte(v float64) uint8 { return uint8(min(max(v, 0), 255)) }
