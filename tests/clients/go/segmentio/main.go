// segmentio's kafka-go.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"seawall/clients/agent"
)

const module = "github.com/segmentio/kafka-go"

var bootstrap = os.Args[1]

// It keeps what it knows of topics for 6 s by default, and new ones are unknown until then. Nor
// does it wait any longer for an answer about them.
var transport = &kafka.Transport{
	MetadataTTL: time.Second,
	DialTimeout: agent.Patience,
}

var dialer = &kafka.Dialer{Timeout: agent.Patience, DualStack: true}

// patiently repeats what fails because the transport does not know of a topic, or of the
// broker, yet, or was not told of them in time: it does not look again by itself.
func patiently(command agent.Command, work func(agent.Command) (agent.Answer, error)) (agent.Answer, error) {
	until := time.Now().Add(agent.Patience)
	for {
		answer, err := work(command)
		var failure net.Error
		isLate := errors.As(err, &failure) && failure.Timeout()
		passes := isLate ||
			errors.Is(err, kafka.UnknownTopicOrPartition) ||
			errors.Is(err, kafka.BrokerNotAvailable) ||
			errors.Is(err, context.DeadlineExceeded)
		if !passes || time.Now().After(until) {
			return answer, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func writer(topic, codec string) *kafka.Writer {
	codecs := map[string]kafka.Compression{
		"": 0, "none": 0,
		"gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd,
	}
	return &kafka.Writer{
		Addr:         kafka.TCP(bootstrap),
		Transport:    transport,
		Topic:        topic,
		Balancer:     balancer,
		Compression:  codecs[codec],
		RequiredAcks: kafka.RequireAll,
		BatchTimeout: 5 * time.Millisecond,
		MaxAttempts:  100,
		ReadTimeout:  agent.Patience,
		WriteTimeout: agent.Patience,
	}
}

// The writer gives a message to its balancer without the partition, so it is in a field that
// the writer leaves alone.
var balancer = kafka.BalancerFunc(func(message kafka.Message, _ ...int) int {
	return message.WriterData.(int)
})

func produce(command agent.Command) (agent.Answer, error) {
	if command.Idempotent != nil && *command.Idempotent {
		return nil, agent.ErrUnsupported
	}
	target := writer(command.Topic, command.Codec)
	defer target.Close()
	var messages []kafka.Message
	for _, each := range command.Records {
		message := kafka.Message{
			Key:        agent.Bytes(each.Key),
			Value:      agent.Bytes(each.Value),
			WriterData: each.Partition,
		}
		for _, header := range each.Headers {
			value := agent.Bytes(header[1])
			message.Headers = append(message.Headers, kafka.Header{Key: *header[0], Value: value})
		}
		messages = append(messages, message)
	}
	err := target.WriteMessages(context.Background(), messages...)
	return agent.Answer{"offsets": nil}, err
}

func asSaid(message kafka.Message) agent.Record {
	headers := [][2]*string{}
	for _, each := range message.Headers {
		headers = append(headers, [2]*string{&each.Key, agent.Text(each.Value)})
	}
	return agent.Record{
		Partition: message.Partition,
		Offset:    message.Offset,
		Timestamp: message.Time.UnixMilli(),
		Key:       agent.Text(message.Key),
		Value:     agent.Text(message.Value),
		Headers:   headers,
	}
}

func consume(command agent.Command) (agent.Answer, error) {
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers:   []string{bootstrap},
		Dialer:    dialer,
		Topic:     command.Topic,
		Partition: int(command.Partition),
		MaxWait:   200 * time.Millisecond,
	})
	defer reader.Close()
	within, cancel := context.WithTimeout(context.Background(), agent.Patience)
	defer cancel()
	switch begin := command.Begin.(type) {
	case string:
		if begin == "end" {
			if err := reader.SetOffset(kafka.LastOffset); err != nil {
				return nil, err
			}
		}
	case float64:
		if err := reader.SetOffsetAt(within, time.UnixMilli(int64(begin))); err != nil {
			return nil, err
		}
	}
	agent.Say(agent.Answer{"event": "ready"})
	records := []agent.Record{}
	for len(records) < command.Count {
		message, err := reader.ReadMessage(within)
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil {
			return nil, err
		}
		records = append(records, asSaid(message))
	}
	return agent.Answer{"records": records}, nil
}

func member(command agent.Command, away <-chan struct{}) (agent.Answer, error) {
	timeout := time.Duration(command.SessionTimeoutMs) * time.Millisecond
	group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID:                command.Group,
		Brokers:           []string{bootstrap},
		Dialer:            dialer,
		Timeout:           agent.Patience,
		Topics:            []string{command.Topic},
		SessionTimeout:    timeout,
		HeartbeatInterval: min(time.Second, timeout/4),
		RebalanceTimeout:  timeout,
		JoinGroupBackoff:  200 * time.Millisecond,
		StartOffset:       kafka.FirstOffset,
	})
	if err != nil {
		return nil, err
	}
	within, cancel := context.WithCancel(context.Background())
	go func() {
		<-away
		cancel()
	}()
	for within.Err() == nil {
		generation, err := group.Next(within)
		if err != nil {
			fmt.Fprintln(os.Stderr, "next generation:", err)
			continue
		}
		partitions := []int{}
		for _, each := range generation.Assignments[command.Topic] {
			partitions = append(partitions, each.ID)
		}
		agent.Say(agent.Answer{"event": "assigned", "partitions": partitions})
		var readers sync.WaitGroup
		for _, each := range generation.Assignments[command.Topic] {
			readers.Add(1)
			generation.Start(func(over context.Context) {
				defer readers.Done()
				follow(over, command.Topic, each, generation)
			})
		}
		ended := make(chan struct{})
		generation.Start(func(over context.Context) {
			<-over.Done()
			readers.Wait()
			agent.Say(agent.Answer{"event": "revoked", "partitions": partitions})
			close(ended)
		})
		select {
		case <-ended:
		case <-within.Done():
		}
	}
	if err := group.Close(); err != nil {
		return nil, err
	}
	return agent.Answer{"left": true}, nil
}

// follow reads a partition while the generation lasts.
func follow(
	over context.Context, topic string, place kafka.PartitionAssignment, generation *kafka.Generation,
) {
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers:   []string{bootstrap},
		Dialer:    dialer,
		Topic:     topic,
		Partition: place.ID,
		MaxWait:   200 * time.Millisecond,
	})
	defer reader.Close()
	if err := reader.SetOffset(place.Offset); err != nil {
		fmt.Fprintln(os.Stderr, "offset:", err)
		return
	}
	for {
		message, err := reader.ReadMessage(over)
		if over.Err() != nil {
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "read:", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		agent.Say(agent.Answer{
			"event":     "record",
			"partition": message.Partition,
			"offset":    message.Offset,
			"value":     agent.Text(message.Value),
		})
		behind := map[string]map[int]int64{topic: {place.ID: message.Offset + 1}}
		if err := generation.CommitOffsets(behind); err != nil {
			agent.Say(agent.Answer{"event": "not committed", "error": err.Error()})
			continue
		}
		agent.Say(agent.Answer{
			"event": "committed", "partition": place.ID, "offset": message.Offset + 1,
		})
	}
}

func administer(command agent.Command) (agent.Answer, error) {
	client := &kafka.Client{Addr: kafka.TCP(bootstrap), Timeout: agent.Patience, Transport: transport}
	within := context.Background()
	switch command.Do {
	case "create":
		topic := kafka.TopicConfig{
			Topic: command.Topic, NumPartitions: int(command.Partitions), ReplicationFactor: 1,
		}
		for name, value := range command.Config {
			entry := kafka.ConfigEntry{ConfigName: name, ConfigValue: value}
			topic.ConfigEntries = append(topic.ConfigEntries, entry)
		}
		told, err := client.CreateTopics(within, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{topic}})
		if err != nil {
			return nil, err
		}
		return nil, told.Errors[command.Topic]
	case "describe":
		return describe(within, client, command)
	case "alter":
		resource := kafka.IncrementalAlterConfigsRequestResource{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: command.Topic,
		}
		for name, value := range command.Config {
			resource.Configs = append(resource.Configs, kafka.IncrementalAlterConfigsRequestConfig{
				Name: name, Value: value, ConfigOperation: kafka.ConfigOperationSet,
			})
		}
		told, err := client.IncrementalAlterConfigs(within, &kafka.IncrementalAlterConfigsRequest{
			Resources: []kafka.IncrementalAlterConfigsRequestResource{resource},
		})
		if err != nil {
			return nil, err
		}
		return nil, told.Resources[0].Error
	case "grow":
		told, err := client.CreatePartitions(within, &kafka.CreatePartitionsRequest{
			Topics: []kafka.TopicPartitionsConfig{{Name: command.Topic, Count: command.Partitions}},
		})
		if err != nil {
			return nil, err
		}
		return nil, told.Errors[command.Topic]
	case "delete":
		told, err := client.DeleteTopics(within, &kafka.DeleteTopicsRequest{Topics: []string{command.Topic}})
		if err != nil {
			return nil, err
		}
		return nil, told.Errors[command.Topic]
	case "lag":
		return lag(within, client, command)
	case "group":
		told, err := client.DescribeGroups(within, &kafka.DescribeGroupsRequest{GroupIDs: []string{command.Group}})
		if err != nil {
			return nil, err
		}
		group := told.Groups[0]
		return agent.Answer{"state": group.GroupState, "members": len(group.Members)}, group.Error
	case "delete_group":
		told, err := client.DeleteGroups(within, &kafka.DeleteGroupsRequest{GroupIDs: []string{command.Group}})
		if err != nil {
			return nil, err
		}
		return nil, told.Errors[command.Group]
	}
	return nil, agent.ErrUnsupported
}

func describe(within context.Context, client *kafka.Client, command agent.Command) (agent.Answer, error) {
	metadata, err := client.Metadata(within, &kafka.MetadataRequest{})
	if err != nil {
		return nil, err
	}
	partitions := 0
	for _, each := range metadata.Topics {
		if each.Name == command.Topic {
			partitions = len(each.Partitions)
		}
	}
	if partitions == 0 {
		return agent.Answer{"partitions": 0}, nil
	}
	told, err := client.DescribeConfigs(within, &kafka.DescribeConfigsRequest{
		Resources: []kafka.DescribeConfigRequestResource{{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: command.Topic, ConfigNames: command.Names,
		}},
	})
	if err != nil {
		return nil, err
	}
	config := map[string]string{}
	for _, each := range told.Resources[0].ConfigEntries {
		config[each.ConfigName] = each.ConfigValue
	}
	return agent.Answer{"partitions": partitions, "config": config}, told.Resources[0].Error
}

func lag(within context.Context, client *kafka.Client, command agent.Command) (agent.Answer, error) {
	metadata, err := client.Metadata(within, &kafka.MetadataRequest{Topics: []string{command.Topic}})
	if err != nil {
		return nil, err
	}
	if err := metadata.Topics[0].Error; err != nil {
		return nil, err
	}
	var partitions []int
	var places []kafka.OffsetRequest
	for _, each := range metadata.Topics[0].Partitions {
		partitions = append(partitions, each.ID)
		places = append(places, kafka.FirstOffsetOf(each.ID), kafka.LastOffsetOf(each.ID))
	}
	listed, err := client.ListOffsets(within, &kafka.ListOffsetsRequest{
		Topics: map[string][]kafka.OffsetRequest{command.Topic: places},
	})
	if err != nil {
		return nil, err
	}
	committed, err := client.OffsetFetch(within, &kafka.OffsetFetchRequest{
		GroupID: command.Group, Topics: map[string][]int{command.Topic: partitions},
	})
	if err != nil {
		return nil, err
	}
	lag := map[string]int64{}
	for _, each := range listed.Topics[command.Topic] {
		at := each.FirstOffset
		for _, found := range committed.Topics[command.Topic] {
			if found.Partition == each.Partition && found.CommittedOffset >= 0 {
				at = found.CommittedOffset
			}
		}
		lag[fmt.Sprint(each.Partition)] = each.LastOffset - at
	}
	return agent.Answer{"lag": lag}, nil
}

func main() {
	agent.Main(func(command agent.Command, away <-chan struct{}) (agent.Answer, error) {
		switch command.Do {
		case "about":
			return agent.Answer{"client": "kafka-go", "version": agent.Version(module)}, nil
		case "produce":
			return patiently(command, produce)
		case "stream":
			return nil, agent.ErrUnsupported
		case "consume":
			return consume(command)
		case "member":
			return member(command, away)
		case "leave":
			return nil, nil
		}
		return patiently(command, administer)
	})
}
