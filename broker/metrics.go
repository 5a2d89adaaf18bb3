package broker

import "github.com/prometheus/client_golang/prometheus"

// newMetrics makes the broker's metrics. None has a device as a label: their number grows with the fleet.
func (b *Broker) newMetrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	gauge := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "signal_device_" + name, Help: help}, value))
	}
	counter := func(name, help string, value func() uint64) {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "signal_device_" + name, Help: help},
			func() float64 { return float64(value()) }))
	}
	gauge("devices_online", "Devices that can receive a command now.", func() float64 { return float64(b.presence.Online()) })
	gauge("device_connections", "Connections of devices.", func() float64 { return float64(b.mqtt.Connections()) })
	gauge("device_connections_waiting", "Connections of devices that wait for their turn to be let in.", func() float64 { return float64(b.mqtt.Waiting()) })
	gauge("devices", "Registered devices.", func() float64 { return float64(b.registry.Count()) })
	gauge("queue_replies", "Unread replies in the output queues.", func() float64 { return float64(b.queue.Stats().Waiting) })
	counter("queue_stored_total", "Replies stored durably.", func() uint64 { return b.queue.Stats().Stored })
	counter("queue_duplicates_total", "Replies dropped as duplicates.", func() uint64 { return b.queue.Stats().Duplicates })
	counter("queue_over_limit_total", "Replies dropped over their request's limit.", func() uint64 { return b.queue.Stats().OverLimit })
	counter("queue_parked_total", "Replies that had to wait for room, unacknowledged.", func() uint64 { return b.queue.Stats().Parked })
	counter("queue_aged_total", "Unread replies dropped for their age.", func() uint64 { return b.queue.Stats().Aged })
	counter("queue_unreadable_total", "Times that an unreadable entry was passed over.", func() uint64 { return b.queue.Stats().Unreadable })
	counter("orphan_events_total", "Events that answer no request.", b.events.orphans.Load)
	counter("other_events_total", "Messages on topics that carry no replies.", b.events.other.Load)
	counter("device_refused_total", "Connections of devices that were turned away.", b.mqtt.Refused)
	return r
}
