package camera

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"math"
	"time"
)

const (
	pictureWidth  = 640 // as drawn; a picture of another width is made from that
	pictureHeight = 480
	idTail        = 12 // last characters of the request id that are shown

	// maxJPEG is what fits into one message: a third more in base64, and the rest of the reply.
	maxJPEG = 190_000
)

// picture is what a snapshot shows. It is drawn when it is encoded, and the same picture always gives the same bytes:
// a reply can wait, or be remembered, as these few words.
type picture struct {
	Camera  string
	Request string
	At      time.Time
	Driver  driver
	Speed   float64 // km/h
	Road    bool    // the road ahead instead of the driver
	Width   int     // pixels; the height is three quarters of it
	Quality int     // of the JPEG, 1 to 100; lowered where the picture would be over maxJPEG
}

// MarshalJSON returns the picture in the contract's form: a JPEG in base64 with its content type.
func (p picture) MarshalJSON() ([]byte, error) {
	data, err := p.jpeg()
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		ContentType string `json:"content_type"`
		Data        []byte `json:"data"` // base64
	}{"image/jpeg", data})
}

func (p picture) jpeg() ([]byte, error) {
	c := p.draw()
	if p.Width != pictureWidth {
		c = c.scaled(p.Width, p.Width*pictureHeight/pictureWidth)
	}
	for quality := p.Quality; ; quality -= 10 {
		var out bytes.Buffer
		if err := jpeg.Encode(&out, c.RGBA, &jpeg.Options{Quality: quality}); err != nil {
			return nil, err
		}
		if out.Len() <= maxJPEG || quality <= 10 {
			return out.Bytes(), nil
		}
	}
}

func (p picture) draw() canvas {
	c := newCanvas(pictureWidth, pictureHeight)
	if p.Road {
		mark := p.drawRoad(c)
		p.drawFilm(c)
		p.drawMark(c, mark)
	} else {
		f := p.face()
		p.drawCabin(c)
		p.drawDriver(c, f)
		p.drawFilm(c)
		p.drawDetections(c, f)
	}
	p.drawCaptions(c)
	return c
}

// drawCabin draws what is behind the driver: the dark cabin, the side window with the street passing by, the seat.
func (p picture) drawCabin(c canvas) {
	c.shade(func(x, y float64) float64 { return 46 - 0.04*y + 14*math.Exp(-sq((x-300)/220)-sq((y-200)/200)) })

	passing := math.Mod(seconds(p.At)*max(p.Speed, 3)*4, 210)
	c.paint(452, 70, 620, 300, func(x, y float64) (float64, float64) {
		top, bottom := 84+0.14*(620-x), 296.0
		left := 470 + 0.1*(y-70)
		cover := min(y-top, bottom-y, x-left, 616-x)
		street := 108 + 22*math.Sin((x+passing)/19) + 10*math.Sin((x+2*passing)/7) - 0.12*(y-80)
		return street, cover
	})
	c.stroke(472, 104, 500, 300, 7, 34)
	c.stroke(616, 82, 618, 298, 6, 34)

	c.stroke(270, 176, 330, 176, 166, 29) // head-rest
	c.stroke(272, 168, 328, 168, 140, 37)
	c.blob(blob{x: 300, y: 470, rx: 262, ry: 240, middle: 36, rim: 25}) // back
}

// face is where the parts of the face are in the picture.
type face struct {
	x, y     float64 // its middle
	turn     float64 // pixels that the features move by the head's yaw
	nod      float64 // and by its pitch
	openness float64 // of the eyes, 0 … 1
}

const (
	headWidth  = 84.0 // half of it
	headHeight = 112.0
	eyeApart   = 34.0
)

func (p picture) face() face {
	d := p.Driver
	return face{
		x:        300 + 0.8*d.Yaw,
		y:        206 + 0.9*d.Pitch,
		turn:     1.5 * d.Yaw,
		nod:      1.1 * d.Pitch,
		openness: clamp(1.05 - 2*d.EyesClosed),
	}
}

func (p picture) drawDriver(c canvas, f face) {
	p.drawBody(c, f)
	p.drawHead(c, f)
	for _, side := range []float64{-1, 1} {
		p.drawEye(c, f, f.x+side*eyeApart+f.turn, f.eyeLine())
	}
	p.drawMouth(c, f)
}

func (f face) eyeLine() float64   { return f.y - 14 + f.nod }
func (f face) mouthLine() float64 { return f.y + 58 + 0.8*f.nod }

func (p picture) drawBody(c canvas, f face) {
	c.blob(blob{x: 300, y: 500, rx: 222, ry: 172, middle: 94, rim: 58}) // shoulders
	c.blob(blob{x: 300, y: 330, rx: 48, ry: 72, middle: 150, rim: 96})  // neck
	c.glow(f.x, f.y+headHeight+4, headWidth-10, 40, 58, 0.8)            // shadow of the chin
	for _, side := range []float64{-1, 1} {                             // collar
		c.stroke(300+side*50, 352, 300+side*8, 414, 17, 74)
		c.stroke(300+side*50, 346, 300+side*6, 405, 2, 108)
	}
	c.stroke(470, 300, 214, 508, 27, 40) // belt
	c.stroke(462, 296, 206, 502, 2, 66)  // its seam
}

func (p picture) drawHead(c canvas, f face) {
	for _, side := range []float64{-1, 1} { // ears
		c.blob(blob{x: f.x + side*(headWidth-2) - 0.3*f.turn, y: f.y + 4, rx: 13, ry: 25, middle: 150, rim: 104})
	}
	c.blob(blob{x: f.x - 0.4*f.turn, y: f.y - 34, rx: headWidth + 7, ry: headHeight - 20, middle: 58, rim: 30}) // hair
	c.blob(blob{x: f.x, y: f.y, rx: headWidth, ry: headHeight, middle: 206, rim: 112})
	c.blob(blob{x: f.x - 0.2*f.turn, y: f.y - 92, rx: headWidth - 14, ry: 34, middle: 52, rim: 40}) // fringe
	for _, side := range []float64{-1, 1} {
		x := f.x + side*eyeApart + f.turn
		c.blob(blob{x: x, y: f.eyeLine() + 3, rx: 25, ry: 17, middle: 158, rim: 180}) // socket
		c.arc(x-21, x+21, f.eyeLine()-22+side*0.05*f.turn, -6, 6, 58)                 // brow
		c.glow(x+side*4, f.y+32+f.nod, 24, 20, 224, 0.5)                              // cheek
	}
	nose := f.x + 1.3*f.turn
	c.stroke(f.x+f.turn-6, f.eyeLine()+4, nose-10, f.y+26+f.nod, 3, 166)
	c.blob(blob{x: nose, y: f.y + 27 + f.nod, rx: 13, ry: 10, middle: 222, rim: 178})
	for _, side := range []float64{-1, 1} {
		c.blob(blob{x: nose + side*6, y: f.y + 34 + f.nod, rx: 3.6, ry: 2.4, middle: 90, rim: 110})
	}
}

// drawEye draws an eye as far open as the face says: lids over white, iris and the infra-red lamp's glint.
func (p picture) drawEye(c canvas, f face, x, y float64) {
	const half = 18.0
	open := 9 * f.openness
	if open < 1.5 {
		c.arc(x-half, x+half, y+1, 5, 3.4, 70)
		return
	}
	c.blob(blob{x: x, y: y, rx: half, ry: open, middle: 236, rim: 196})
	look := clampTo(0.35*f.turn, 8)
	iris := min(8.5, open+2)
	c.paint(x-half, y-open, x+half, y+open, func(px, py float64) (float64, float64) {
		inEye := (1 - math.Hypot((px-x)/half, (py-y)/open)) * open
		r := math.Hypot(px-x-look, py-y)
		grey := 96.0
		if r < 4 {
			grey = 22
		}
		return grey, min(iris-r+0.5, inEye+0.5)
	})
	c.blob(blob{x: x + look + 2.5, y: y - 2.5, rx: 1.9, ry: 1.9, middle: 255, rim: 250})
	c.arc(x-half, x+half, y, -open, 3.2, 64) // upper lid
	c.arc(x-half, x+half, y, open, 1.4, 128) // lower lid
}

func (p picture) drawMouth(c canvas, f face) {
	x, y := f.x+1.1*f.turn, f.mouthLine()
	if p.Driver.Yawning {
		c.blob(blob{x: x, y: y + 8, rx: 25, ry: 25, middle: 150, rim: 132})
		c.blob(blob{x: x, y: y + 8, rx: 19, ry: 19, middle: 26, rim: 44})
		c.blob(blob{x: x, y: y + 19, rx: 12, ry: 7, middle: 110, rim: 70})
		return
	}
	c.arc(x-25, x+25, y-1, -5, 5, 142)
	c.arc(x-23, x+23, y+5, 5, 6, 150)
	c.arc(x-27, x+27, y+1, 2, 2.4, 84)
	c.arc(x-16, x+16, y+19, 3, 2, 170)
}

// drawFilm adds what the lens and the sensor add: darker corners and a little noise.
func (p picture) drawFilm(c canvas) {
	noise := uint32(p.At.UnixMilli())
	for y := range pictureHeight {
		fall := sq(float64(y)/pictureHeight - 0.5)
		for x := range pictureWidth {
			noise = noise*1_664_525 + 1_013_904_223 // a linear congruential generator is noise enough
			grain := float64(noise>>24)/255*5 - 2.5
			dark := 1 - 0.75*(sq(float64(x)/pictureWidth-0.5)+fall)
			v := toByte(float64(c.RGBAAt(x, y).R)*dark + grain)
			c.SetRGBA(x, y, color.RGBA{v, v, v, 255})
		}
	}
}

// ink is the colour of the overlay: green, amber or red as the driver does.
func (p picture) ink() color.RGBA {
	switch p.Driver.State {
	case alert:
		return color.RGBA{84, 224, 138, 255}
	case tired:
		return color.RGBA{255, 190, 60, 255}
	default:
		return color.RGBA{255, 86, 74, 255}
	}
}

// drawDetections marks what the fatigue detector found: face, eyes, mouth, and the marks on them.
func (p picture) drawDetections(c canvas, f face) {
	ink := p.ink()
	box := image.Rect(int(f.x-headWidth-16), int(f.y-headHeight-12), int(f.x+headWidth+16), int(f.y+headHeight+14))
	c.corners(box, 26, 3, ink)
	label := fmt.Sprintf("FACE %.2f", 0.99-0.004*math.Abs(p.Driver.Yaw))
	c.fill(image.Rect(box.Min.X, box.Min.Y-20, box.Min.X+textWidth(2, label)+10, box.Min.Y-1), ink)
	write(c, image.Pt(box.Min.X+5, box.Min.Y-17), 2, color.Black, label)
	for _, side := range []float64{-1, 1} {
		x, y := int(f.x+side*eyeApart+f.turn), int(f.eyeLine())
		c.frame(image.Rect(x-25, y-15, x+25, y+16), 1, ink)
		for _, dx := range []int{-18, 0, 18} {
			c.fill(image.Rect(x+dx-1, y-1, x+dx+2, y+2), ink)
		}
	}
	mx, my := int(f.x+1.1*f.turn), int(f.mouthLine())
	for _, dx := range []int{-26, 0, 26} {
		c.fill(image.Rect(mx+dx-1, my, mx+dx+2, my+3), ink)
	}
}

// drawCaptions writes who took the picture, when, for which request, and what the detector measured.
func (p picture) drawCaptions(c canvas) {
	shade := color.NRGBA{0, 0, 0, 150}
	white, soft := color.White, color.Gray{176}

	c.fill(image.Rect(0, 0, pictureWidth, 30), shade)
	name := p.Camera
	if len(name) > 24 {
		name = name[:24]
	}
	write(c, image.Pt(12, 8), 2, white, name)
	at := p.At.UTC().Format("2006-01-02 15:04:05") + " UTC"
	write(c, image.Pt(pictureWidth-12-textWidth(2, at), 8), 2, white, at)

	c.fill(image.Rect(0, pictureHeight-30, pictureWidth, pictureHeight), shade)
	write(c, image.Pt(12, pictureHeight-22), 2, soft, "REQUEST")
	write(c, image.Pt(106, pictureHeight-22), 2, white, tail(p.Request))
	speed := fmt.Sprintf("%.0f km/h", p.Speed)
	write(c, image.Pt(pictureWidth-12-textWidth(2, speed), pictureHeight-22), 2, white, speed)

	panel := image.Rect(468, 318, pictureWidth-12, 438)
	c.fill(panel, shade)
	d := p.Driver
	state := map[string]string{alert: "ALERT", tired: "TIRED", drowsy: "DROWSY"}[d.State]
	c.fill(image.Rect(panel.Min.X, panel.Min.Y, panel.Max.X, panel.Min.Y+26), p.ink())
	write(c, image.Pt(panel.Min.X+(panel.Dx()-textWidth(2, state))/2, panel.Min.Y+6), 2, color.Black, state)
	p.drawGauge(c, image.Pt(panel.Min.X+10, panel.Min.Y+36), "ATTENTION", d.Attention)
	p.drawGauge(c, image.Pt(panel.Min.X+10, panel.Min.Y+64), "EYES CLOSED", d.EyesClosed)
	write(c, image.Pt(panel.Min.X+10, panel.Min.Y+96), 1, soft, "YAWNS IN 10 MIN")
	write(c, image.Pt(panel.Min.X+118, panel.Min.Y+92), 2, white, fmt.Sprint(d.Yawns))
}

// drawGauge draws a titled bar that is filled to the share, 0 … 1.
func (p picture) drawGauge(c canvas, at image.Point, title string, share float64) {
	const width = 140
	write(c, at, 1, color.Gray{176}, title)
	value := fmt.Sprintf("%.0f%%", 100*share)
	write(c, image.Pt(at.X+width-textWidth(1, value), at.Y), 1, color.White, value)
	bar := image.Rect(at.X, at.Y+11, at.X+width, at.Y+17)
	c.fill(bar, color.NRGBA{255, 255, 255, 50})
	bar.Max.X = bar.Min.X + int(width*clamp(share))
	c.fill(bar, p.ink())
}

func tail(id string) string {
	if len(id) <= idTail {
		return id
	}
	return ".." + id[len(id)-idTail:]
}

func sq(v float64) float64 { return v * v }

func clampTo(v, limit float64) float64 { return min(max(v, -limit), limit) }
