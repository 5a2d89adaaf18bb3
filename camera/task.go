package camera

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// task is a command that the camera has taken.
type task struct {
	command
	received time.Time
	fate     fate
}

// accept decides what becomes of an incoming message. A task is to be executed; none means that all is done already.
// What is not taken must not be acknowledged.
func (c *Camera) accept(payload []byte) (t *task, taken bool) {
	now := c.cfg.Clock()
	c.count.received.Add(1)
	if c.outbox.full() {
		c.count.refused.Add(1)
		return nil, false
	}
	var cmd command
	if err := json.Unmarshal(payload, &cmd); err != nil || cmd.RequestID == "" {
		c.count.malformed.Add(1)
		c.unit.write(now, levelWarning, "mqtt", "a message that is no command")
		return nil, true // there is no id to answer with
	}
	if earlier, first := c.history.begin(cmd.RequestID); !first {
		c.count.duplicates.Add(1)
		c.repeat(earlier)
		return nil, true
	}
	t = &task{command: cmd, received: now, fate: c.dice.throw(cmd.RequestID, c.cfg.rumours.of(c.ID()))}
	c.cfg.rumours.add(c.ID(), cmd.RequestID)
	if c.running.Add(1) > maxRunning {
		c.running.Add(-1)
		c.say(cmd.RequestID, 0, failed(codeBusy, "the camera executes too many commands"))
		return nil, true
	}
	return t, true
}

// execute carries a task out and says what came of it.
func (c *Camera) execute(ctx context.Context, t task) {
	defer c.running.Add(-1)
	seq := 0
	reply := func(r reply) {
		if seq == 0 {
			if !sleep(ctx, c.cfg.Faults.ReplyDelay) {
				return
			}
			c.misbehave(t.fate)
		}
		c.say(t.RequestID, seq, r)
		seq++
	}
	out := c.perform(ctx, t, func(result any) { reply(progress(result)) })
	reply(out.reply)
	if out.restart && sleep(ctx, out.delay) {
		c.outbox.put(message{restart: true})
	}
}

// perform runs the command's handler, if there is one and still time.
func (c *Camera) perform(ctx context.Context, t task, progress func(any)) outcome {
	now := c.cfg.Clock()
	if deadline, limited := t.deadline(t.received); limited && !now.Before(deadline) {
		return refuse(codeExpired, "the command came after its time and was not executed")
	}
	handle, known := c.handler(t.Command)
	if !known {
		return refuse(codeUnknownCommand, "this camera does not know the command")
	}
	c.count.executed.Add(1)
	c.unit.write(now, levelDebug, "mqtt", "command "+t.Command)
	return handle(ctx, call{id: t.RequestID, args: t.Args, at: t.received, progress: progress})
}

// misbehave puts what the fate holds before a command's first reply.
func (c *Camera) misbehave(f fate) {
	if f.cutBeforeReply {
		c.outbox.put(message{cut: true})
	}
	if f.garbage != nil {
		c.outbox.put(message{raw: f.garbage})
	}
}

// say remembers a reply and publishes it.
func (c *Camera) say(requestID string, seq int, r reply) {
	r.RequestID, r.Seq = requestID, seq
	c.history.add(r)
	c.repeat([]reply{r})
}

// repeat publishes replies, perhaps once more.
func (c *Camera) repeat(replies []reply) {
	if c.cfg.Faults.Silent {
		return
	}
	for _, r := range replies {
		c.outbox.put(message{reply: &r})
	}
}

// encode returns a reply as it is published. Of a fleet's pictures only some are drawn at the same time: a canvas takes
// a megabyte.
func (c *Camera) encode(ctx context.Context, r *reply) ([]byte, error) {
	if _, drawn := r.Result.(picture); drawn {
		if !c.cfg.drawing.enter(ctx) {
			return nil, context.Cause(ctx)
		}
		defer c.cfg.drawing.leave()
	}
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return body, nil
}
