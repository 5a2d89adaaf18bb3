package main

import (
	"time"

	"signaldevice/app"
)

// apiFlags are the options of the API, wherever it runs. The variable host is where its listeners are by default: set
// by each subcommand.
type apiFlags struct {
	HTTP         string        `name:"http" help:"Listen here for the HTTP API." default:"${host}:8080" group:"API"`
	Tokens       string        `help:"File of token hashes, made by token create; read again when it changes." placeholder:"FILE" group:"API"`
	Roles        string        `help:"File of roles and their permissions; read again when it changes." placeholder:"FILE" group:"API"`
	Catalogue    string        `help:"File of commands; read again when it changes." placeholder:"FILE" group:"API"`
	Redis        string        `help:"Cache: redis://HOST:PORT, rediss:// or several for Sentinel or Cluster. Without it the cache is in memory." placeholder:"URL" group:"API"`
	RedisCA      string        `name:"redis-ca" help:"The CA of a rediss:// server, where the system does not know it." placeholder:"FILE" group:"API"`
	RedisCert    string        `name:"redis-cert" help:"This client's certificate for a rediss:// server that asks for one." placeholder:"FILE" group:"API"`
	RedisKey     string        `name:"redis-key" help:"Its key." placeholder:"FILE" group:"API"`
	CacheDurable bool          `help:"Vouch that this Redis keeps what it acknowledged, although it has no append-only file." group:"API"`
	Replicas     int           `name:"cache-replicas" help:"So many of this Redis's replicas must have a reply before it leaves the broker's queue, or a failover loses some." default:"0" group:"API"`
	CacheTTL     time.Duration `name:"cache-ttl" help:"How long a reply stays in the cache." default:"1h" group:"API"`
	ReplyGrace   time.Duration `help:"How long a reply that was read can be read again by its request id; 0 not at all." default:"30s" group:"API"`
	Rate         float64       `help:"Calls a second that one client may make; 0 for no limit." default:"50" group:"API"`
	Burst        int           `help:"Calls that one client may make at once." default:"100" group:"API"`
	Audit        string        `help:"Audit every change in this file, as JSON lines, before it is made; opened again on SIGHUP. - is standard error." placeholder:"FILE" group:"API"`
	DrainDelay   time.Duration `help:"After SIGTERM, say on /readyz for so long that this instance stops, and take calls as ever; longer than a load balancer needs to notice." default:"0s" group:"API"`
}

func (f apiFlags) options() app.APIOptions {
	return app.APIOptions{
		HTTP:         f.HTTP,
		Tokens:       f.Tokens,
		Roles:        f.Roles,
		Catalogue:    f.Catalogue,
		Redis:        f.Redis,
		RedisCA:      f.RedisCA,
		RedisCert:    f.RedisCert,
		RedisKey:     f.RedisKey,
		CacheDurable: f.CacheDurable,
		Replicas:     f.Replicas,
		CacheTTL:     f.CacheTTL,
		ReplyGrace:   f.ReplyGrace,
		Rate:         f.Rate,
		Burst:        f.Burst,
		Audit:        f.Audit,
		DrainDelay:   f.DrainDelay,
	}
}

// brokerFlags are the options of the broker, wherever it runs.
type brokerFlags struct {
	MQTT      string        `name:"mqtt" help:"Listen here for cameras." default:"${host}:8883" group:"Broker"`
	GRPC      string        `name:"grpc" help:"Listen here for the API, and for clients written for IoT Core." default:"${host}:8443" group:"Broker"`
	Host      []string      `help:"Names and addresses at which cameras and the API reach this machine, for the server certificate. The first one is told to cameras." placeholder:"NAME" group:"Broker"`
	TLS12     bool          `name:"tls12" env:"SIGNAL_DEVICE_TLS12" help:"Admit cameras that have no TLS 1.3." group:"Broker"`
	Retention time.Duration `help:"How long an unread reply waits in the output queue, from 1m to 720h." default:"24h" group:"Broker"`

	QueueReplies   int           `help:"Unread replies that one camera may have in its output queue; beyond, none of its replies is acknowledged." default:"1000" group:"Broker"`
	QueueBytes     byteSize      `help:"Bytes of those replies, from 1MiB." default:"16MiB" group:"Broker"`
	KeepRequests   time.Duration `help:"How long the record of a request is kept after its last change: from 24h, at least as long as replies, and longer than any command waits." default:"720h" group:"Broker"`
	MaxRequests    int64         `help:"Request records that are kept, from 1000 to 1000000; the oldest finished ones go first." default:"500000" group:"Broker"`
	MaxStore       byteSize      `help:"Bytes that the broker may use on disk; half of them for the output queues." default:"16GiB" group:"Broker"`
	MaxConnections int           `help:"Cameras that may be connected at once." default:"20000" group:"Broker"`
	ConnectRate    int           `help:"Cameras that may connect in a second, to 100000; one that would wait over 5 s is turned away. 0 for 100 for each processor." default:"0" group:"Broker"`
	IoTTokenFile   string        `name:"iot-core-token-file" help:"File with a bearer token that IoT Core's gRPC services accept from clients without a certificate." placeholder:"FILE" group:"Broker"`
}

func (f brokerFlags) options(data string) app.BrokerOptions {
	return app.BrokerOptions{
		Data:      data,
		MQTT:      f.MQTT,
		GRPC:      f.GRPC,
		Hosts:     f.Host,
		TLS12:     f.TLS12,
		Retention: f.Retention,

		QueueReplies:     f.QueueReplies,
		QueueBytes:       int64(f.QueueBytes),
		KeepRequests:     f.KeepRequests,
		MaxRequests:      f.MaxRequests,
		MaxStore:         int64(f.MaxStore),
		MaxConnections:   f.MaxConnections,
		ConnectRate:      f.ConnectRate,
		IoTCoreTokenFile: f.IoTTokenFile,
	}
}

// Validate is called by the parser.
func (f brokerFlags) Validate() error {
	if err := f.options("").Validate(); err != nil {
		return usageError{err}
	}
	return nil
}
