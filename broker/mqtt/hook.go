package mqtt

import (
	"errors"
	"math"
	"strconv"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"signaldevice/device"
)

// maxKeepalive is the longest keepalive in seconds that the protocol layer can keep: it counts one and a half times that
// in 16 bits [MQTT-3.1.2-24], and one second more would wrap to no time at all.
const maxKeepalive = math.MaxUint16 * 2 / 3

// hook is where the protocol layer asks. Its interface has 42 methods; these are the ones that matter here.
type hook struct {
	mochi.HookBase
	server *Server
}

func (h *hook) ID() string { return "devices" }

func (h *hook) Provides(b byte) bool {
	switch b {
	case mochi.OnConnectAuthenticate, mochi.OnACLCheck, mochi.OnPacketRead, mochi.OnPublish,
		mochi.OnSubscribed, mochi.OnUnsubscribed:
		return true
	}
	return false
}

// OnConnectAuthenticate lets a device in by its certificate. The client id says nothing.
func (h *hook) OnConnectAuthenticate(cl *mochi.Client, pk packets.Packet) bool {
	c, ok := cl.Net.Conn.(*conn)
	if !ok {
		return false
	}
	if cl.Properties.ProtocolVersion != 4 {
		return h.refuse(cl, packets.ErrUnsupportedProtocolVersion, "", errors.New("not MQTT 3.1.1")) // [MQTT-3.1.2-2]
	}
	id, err := h.server.cfg.Identify(c.certificate().Raw)
	switch {
	case device.Is(err, device.BrokerUnavailable):
		return h.refuse(cl, packets.Err3ServerUnavailable, "", err)
	case err != nil:
		return h.refuse(cl, packets.Err3NotAuthorized, "", err)
	case pk.Connect.WillFlag && !mayPublish(id, pk.Connect.WillTopic):
		return h.refuse(cl, packets.Err3NotAuthorized, id, errors.New("will on a topic that is not the device's"))
	}
	c.device = id
	// Every connection is a client of its own to the protocol layer: its takeover by client id never runs, and two
	// connections with one client id cut nothing (iot-core.md: "client id not enforced unique").
	cl.ID = string(id) + "~" + strconv.FormatUint(h.server.nextConnection(), 36)
	cl.Properties.Clean = true // no persistent session, whatever was asked for
	cl.Properties.Will = mochi.Will{}
	// Who asked for more may still be silent for 65,535 s, which is no less than the keepalive that it asked for.
	cl.State.Keepalive = min(cl.State.Keepalive, maxKeepalive)
	s := h.server.open(cl, c)
	if _, err := h.server.cfg.Identify(c.certificate().Raw); err != nil {
		s.cut(ErrRevoked) // it was removed after the first look and before a cut could find the session
	}
	return true
}

// refuse answers with a return code of its own instead of the protocol layer's.
func (h *hook) refuse(cl *mochi.Client, code packets.Code, id device.ID, err error) bool {
	h.server.refused.Add(1)
	h.server.cfg.Log.Info("device refused", "remote", cl.Net.Remote, "device", id, "error", err)
	_ = h.server.mochi.SendConnack(cl, code, false, nil) // the connection ends either way
	cl.Stop(err)
	return false
}

// OnACLCheck decides about topics. A wrong subscription is refused with 0x80; a wrong publish was cut before.
func (h *hook) OnACLCheck(cl *mochi.Client, topic string, write bool) bool {
	s := h.server.session(cl)
	if s == nil {
		return false
	}
	if write {
		return mayPublish(s.device, topic)
	}
	return maySubscribe(s.device, topic)
}

// OnPacketRead sees every packet first: acknowledgements of commands are taken here, and what the protocol layer would
// swallow in silence ends the connection.
func (h *hook) OnPacketRead(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	s := h.server.session(cl)
	if s == nil {
		return pk, nil // CONNECT
	}
	s.seen()
	switch pk.FixedHeader.Type {
	case packets.Puback:
		s.acknowledged(pk.PacketID)
	case packets.Disconnect:
		s.conn.leaving.Store(true)
	case packets.Publish:
		if err := checkPublish(s.device, pk); err != nil {
			h.server.cfg.Log.Warn("device sent a PUBLISH that is not allowed, cut", "device", s.device, "remote", cl.Net.Remote, "error", err)
			s.cut(err)
			return pk, packets.ErrRejectPacket
		}
	}
	return pk, nil
}

func checkPublish(id device.ID, pk packets.Packet) error {
	switch {
	case pk.FixedHeader.Qos > 1:
		return errors.New("QoS 2 is not offered")
	case pk.FixedHeader.Retain:
		return errors.New("retained messages are not offered")
	case pk.FixedHeader.Qos == 1 && pk.PacketID == 0:
		return errors.New("packet id 0") // [MQTT-2.3.1-1]
	case !validTopic(pk.TopicName):
		return errors.New("invalid topic")
	case !mayPublish(id, pk.TopicName):
		return errors.New("not a topic of the device's own")
	case len(pk.Payload) > device.MaxPayload:
		return errors.New("payload over the limit")
	}
	return nil
}

// OnPublish takes an event over. The PUBACK is the session's affair: rejecting keeps the protocol layer from sending its
// own, and from handing the message to subscribers.
func (h *hook) OnPublish(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	s := h.server.session(cl)
	if s == nil {
		return pk, packets.ErrRejectPacket
	}
	rest, _ := own(s.device, pk.TopicName) // OnACLCheck was there before
	s.event(Event{
		Device: s.device, Topic: "$devices/" + string(s.device) + rest, Payload: pk.Payload, Gone: s.gone, Parked: s.stall,
	}, pk.FixedHeader.Qos, pk.PacketID)
	return pk, packets.ErrRejectPacket
}

// OnSubscribed notes the filters that were granted.
func (h *hook) OnSubscribed(cl *mochi.Client, pk packets.Packet, codes []byte) {
	s := h.server.session(cl)
	if s == nil {
		return
	}
	for i, f := range pk.Filters {
		if i < len(codes) && codes[i] <= 1 {
			s.subscribe(f.Filter, codes[i])
		}
	}
	if s.receives(commandsSuffix) {
		h.server.receive(s)
	}
}

// OnUnsubscribed forgets filters.
func (h *hook) OnUnsubscribed(cl *mochi.Client, pk packets.Packet) {
	s := h.server.session(cl)
	if s == nil {
		return
	}
	for _, f := range pk.Filters {
		s.unsubscribe(f.Filter)
	}
	if !s.receives(commandsSuffix) {
		h.server.release(s)
	}
}
