// franz-go.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"seawall/clients/agent"
)

const module = "github.com/twmb/franz-go"

var bootstrap = os.Args[1]

func connect(options ...kgo.Opt) (*kgo.Client, error) {
	backoff := func(int) time.Duration { return 100 * time.Millisecond }
	common := []kgo.Opt{
		kgo.SeedBrokers(bootstrap),
		kgo.DialTimeout(agent.Patience),
		kgo.RequestTimeoutOverhead(agent.Patience),
		kgo.RetryBackoffFn(backoff),
		kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.FetchMaxWait(200 * time.Millisecond),
	}
	return kgo.NewClient(append(common, options...)...)
}

func producer(codec string, idempotent bool) (*kgo.Client, error) {
	codecs := map[string]kgo.CompressionCodec{
		"":       kgo.NoCompression(),
		"none":   kgo.NoCompression(),
		"gzip":   kgo.GzipCompression(),
		"snappy": kgo.SnappyCompression(),
		"lz4":    kgo.Lz4Compression(),
		"zstd":   kgo.ZstdCompression(),
	}
	options := []kgo.Opt{
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codecs[codec]),
		kgo.ProducerLinger(5 * time.Millisecond),
	}
	if !idempotent {
		options = append(options, kgo.DisableIdempotentWrite())
	}
	return connect(options...)
}

func produce(command agent.Command) (agent.Answer, error) {
	client, err := producer(command.Codec, command.Idempotent != nil && *command.Idempotent)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var records []*kgo.Record
	for _, each := range command.Records {
		record := &kgo.Record{
			Topic:     command.Topic,
			Partition: int32(each.Partition),
			Key:       agent.Bytes(each.Key),
			Value:     agent.Bytes(each.Value),
		}
		for _, header := range each.Headers {
			record.Headers = append(record.Headers, kgo.RecordHeader{
				Key:   *header[0],
				Value: agent.Bytes(header[1]),
			})
		}
		records = append(records, record)
	}
	if err := client.ProduceSync(context.Background(), records...).FirstErr(); err != nil {
		return nil, err
	}
	offsets := make([]int64, len(records))
	for number, record := range records {
		offsets[number] = record.Offset
	}
	return agent.Answer{"offsets": offsets}, nil
}

func stream(command agent.Command) (agent.Answer, error) {
	client, err := producer("none", command.Idempotent == nil || *command.Idempotent)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	offsets := make([]int64, command.Count)
	failures := make(chan error, command.Count)
	acked := make(chan int, command.Count)
	for number := range command.Count {
		record := &kgo.Record{
			Topic:     command.Topic,
			Partition: command.Partition,
			Value:     []byte(fmt.Sprint(number)),
		}
		client.Produce(context.Background(), record, func(record *kgo.Record, err error) {
			if err != nil {
				failures <- err
				return
			}
			offsets[number] = record.Offset
			acked <- number
		})
		time.Sleep(command.Pause())
		if number%20 == 0 {
			agent.Say(agent.Answer{"event": "acked", "count": len(acked)})
		}
	}
	if err := client.Flush(context.Background()); err != nil {
		return nil, err
	}
	if len(failures) > 0 {
		return nil, <-failures
	}
	return agent.Answer{"offsets": offsets}, nil
}

func asSaid(record *kgo.Record) agent.Record {
	headers := [][2]*string{}
	for _, each := range record.Headers {
		headers = append(headers, [2]*string{&each.Key, agent.Text(each.Value)})
	}
	return agent.Record{
		Partition: int(record.Partition),
		Offset:    record.Offset,
		Timestamp: record.Timestamp.UnixMilli(),
		Key:       agent.Text(record.Key),
		Value:     agent.Text(record.Value),
		Headers:   headers,
	}
}

func consume(command agent.Command) (agent.Answer, error) {
	place := kgo.NewOffset().AtStart()
	switch begin := command.Begin.(type) {
	case string:
		if begin == "end" {
			place = kgo.NewOffset().AtEnd()
		}
	case float64:
		place = kgo.NewOffset().AfterMilli(int64(begin))
	}
	places := map[string]map[int32]kgo.Offset{command.Topic: {command.Partition: place}}
	client, err := connect(kgo.ConsumePartitions(places))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	agent.Say(agent.Answer{"event": "ready"})
	within, cancel := context.WithTimeout(context.Background(), agent.Patience)
	defer cancel()
	records := []agent.Record{}
	for len(records) < command.Count && within.Err() == nil {
		client.PollFetches(within).EachRecord(func(record *kgo.Record) {
			records = append(records, asSaid(record))
		})
	}
	return agent.Answer{"records": records}, nil
}

func member(command agent.Command, away <-chan struct{}) (agent.Answer, error) {
	tell := func(event string) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, places map[string][]int32) {
			partitions := places[command.Topic]
			if partitions == nil {
				partitions = []int32{}
			}
			agent.Say(agent.Answer{"event": event, "partitions": partitions})
		}
	}
	timeout := time.Duration(command.SessionTimeoutMs) * time.Millisecond
	client, err := connect(
		kgo.ConsumerGroup(command.Group),
		kgo.ConsumeTopics(command.Topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(timeout),
		kgo.HeartbeatInterval(min(time.Second, timeout/4)),
		kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(tell("assigned")),
		kgo.OnPartitionsRevoked(tell("revoked")),
		kgo.OnPartitionsLost(tell("revoked")),
	)
	if err != nil {
		return nil, err
	}
	within, cancel := context.WithCancel(context.Background())
	go func() {
		<-away
		cancel()
	}()
	for within.Err() == nil {
		fetches := client.PollFetches(within)
		records := fetches.Records()
		behind := map[int32]int64{}
		for _, record := range records {
			agent.Say(agent.Answer{
				"event":     "record",
				"partition": record.Partition,
				"offset":    record.Offset,
				"value":     agent.Text(record.Value),
			})
			behind[record.Partition] = record.Offset + 1
		}
		if len(records) == 0 {
			continue
		}
		if err := client.CommitRecords(context.Background(), records...); err != nil {
			agent.Say(agent.Answer{"event": "not committed", "error": err.Error()})
			continue
		}
		for partition, offset := range behind {
			agent.Say(agent.Answer{"event": "committed", "partition": partition, "offset": offset})
		}
	}
	client.Close() // leaves the group
	return agent.Answer{"left": true}, nil
}

func administer(command agent.Command) (agent.Answer, error) {
	client, err := connect()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	within, cancel := context.WithTimeout(context.Background(), agent.Patience)
	defer cancel()
	switch command.Do {
	case "create":
		config := map[string]*string{}
		for name, value := range command.Config {
			config[name] = &value
		}
		_, err := admin.CreateTopic(within, command.Partitions, 1, config, command.Topic)
		return nil, err
	case "describe":
		return describe(within, admin, command)
	case "alter":
		var changes []kadm.AlterConfig
		for name, value := range command.Config {
			changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: name, Value: &value})
		}
		told, err := admin.AlterTopicConfigs(within, changes, command.Topic)
		if err != nil {
			return nil, err
		}
		return nil, told[0].Err
	case "grow":
		told, err := admin.UpdatePartitions(within, int(command.Partitions), command.Topic)
		if err != nil {
			return nil, err
		}
		return nil, told.Error()
	case "delete":
		_, err := admin.DeleteTopic(within, command.Topic)
		return nil, err
	case "lag":
		return lag(within, admin, command)
	case "group":
		told, err := admin.DescribeGroups(within, command.Group)
		if err != nil {
			return nil, err
		}
		group := told[command.Group]
		return agent.Answer{"state": group.State, "members": len(group.Members)}, group.Err
	case "delete_group":
		_, err := admin.DeleteGroup(within, command.Group)
		return nil, err
	}
	return nil, agent.ErrUnsupported
}

func describe(within context.Context, admin *kadm.Client, command agent.Command) (agent.Answer, error) {
	topics, err := admin.ListTopics(within)
	if err != nil {
		return nil, err
	}
	if !topics.Has(command.Topic) {
		return agent.Answer{"partitions": 0}, nil
	}
	told, err := admin.DescribeTopicConfigs(within, command.Topic)
	if err != nil {
		return nil, err
	}
	if told[0].Err != nil {
		return nil, told[0].Err
	}
	config := map[string]string{}
	for _, name := range command.Names {
		for _, each := range told[0].Configs {
			if each.Key == name {
				config[name] = each.MaybeValue()
			}
		}
	}
	partitions := len(topics[command.Topic].Partitions)
	return agent.Answer{"partitions": partitions, "config": config}, nil
}

func lag(within context.Context, admin *kadm.Client, command agent.Command) (agent.Answer, error) {
	starts, err := admin.ListStartOffsets(within, command.Topic)
	if err != nil {
		return nil, err
	}
	ends, err := admin.ListEndOffsets(within, command.Topic)
	if err != nil {
		return nil, err
	}
	committed, err := admin.FetchOffsets(within, command.Group)
	if err != nil {
		return nil, err
	}
	lag := map[string]int64{}
	ends.Each(func(end kadm.ListedOffset) {
		start, _ := starts.Lookup(end.Topic, end.Partition)
		at := start.Offset
		if found, is := committed.Lookup(end.Topic, end.Partition); is && found.At >= 0 {
			at = found.At
		}
		lag[fmt.Sprint(end.Partition)] = end.Offset - at
	})
	return agent.Answer{"lag": lag}, nil
}

func main() {
	agent.Main(func(command agent.Command, away <-chan struct{}) (agent.Answer, error) {
		switch command.Do {
		case "about":
			return agent.Answer{"client": "franz-go", "version": agent.Version(module)}, nil
		case "produce":
			return produce(command)
		case "stream":
			return stream(command)
		case "consume":
			return consume(command)
		case "member":
			return member(command, away)
		case "leave":
			return nil, nil
		}
		return administer(command)
	})
}
