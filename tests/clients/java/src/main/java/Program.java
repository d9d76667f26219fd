import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.AppInfoParser;

/** Apache Kafka's client. Commands come in and answers go out as python/agent.py says. */
public final class Program {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Duration PATIENCE = Duration.ofSeconds(60);
    private static final BlockingQueue<Optional<JsonNode>> COMMANDS = new LinkedBlockingQueue<>();

    private static String bootstrap;

    public static void main(String[] arguments) throws Exception {
        bootstrap = arguments[0];
        Thread listener = new Thread(Program::listen);
        listener.setDaemon(true);
        listener.start();
        while (true) {
            Optional<JsonNode> command = COMMANDS.take();
            if (command.isEmpty()) {
                System.exit(0);
            }
            say(answer(command.get()));
        }
    }

    private static void listen() {
        try (var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                COMMANDS.add(Optional.of(JSON.readTree(line)));
            }
        } catch (Exception error) {
            error.printStackTrace();
        }
        COMMANDS.add(Optional.empty());
    }

    private static synchronized void say(Map<String, ?> answer) {
        try {
            System.out.println(JSON.writeValueAsString(answer));
            System.out.flush();
        } catch (Exception error) {
            throw new IllegalStateException(error);
        }
    }

    private static Map<String, ?> answer(JsonNode command) {
        try {
            return switch (command.get("do").asText()) {
                case "about" -> Map.of("client", "kafka-clients", "version", AppInfoParser.getVersion());
                case "produce" -> produce(command);
                case "stream" -> stream(command);
                case "consume" -> consume(command);
                case "member" -> member(command);
                case "lag" -> lag(command);
                case "create" -> create(command);
                case "describe" -> describe(command);
                case "alter" -> alter(command);
                case "grow" -> grow(command);
                case "delete" -> delete(command);
                case "group" -> group(command);
                case "delete_group" -> deleteGroup(command);
                case "leave" -> Map.of();
                default -> Map.of("unsupported", "not in this client");
            };
        } catch (Exception error) {
            error.printStackTrace();
            Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
            return Map.of("error", cause.toString());
        }
    }

    // -- producing

    private static KafkaProducer<byte[], byte[]> producer(String codec, boolean idempotent) {
        return new KafkaProducer<>(
                Map.of(
                        "bootstrap.servers", bootstrap,
                        "compression.type", codec,
                        "enable.idempotence", idempotent,
                        "linger.ms", 5,
                        "reconnect.backoff.max.ms", 200),
                new ByteArraySerializer(),
                new ByteArraySerializer());
    }

    private static Map<String, ?> produce(JsonNode command) throws Exception {
        String codec = command.path("codec").asText("none");
        try (var producer = producer(codec, command.path("idempotent").asBoolean(false))) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (JsonNode each : command.get("records")) {
                List<Header> headers = new ArrayList<>();
                for (JsonNode header : each.path("headers")) {
                    headers.add(new RecordHeader(header.get(0).asText(), bytes(header.get(1))));
                }
                sent.add(producer.send(new ProducerRecord<>(
                        command.get("topic").asText(),
                        each.get("partition").asInt(),
                        bytes(each.get("key")),
                        bytes(each.get("value")),
                        headers)));
            }
            return offsets(sent);
        }
    }

    private static Map<String, ?> stream(JsonNode command) throws Exception {
        try (var producer = producer("none", command.path("idempotent").asBoolean(true))) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int number = 0; number < command.get("count").asInt(); number++) {
                byte[] value = String.valueOf(number).getBytes(StandardCharsets.UTF_8);
                sent.add(producer.send(new ProducerRecord<>(
                        command.get("topic").asText(), command.path("partition").asInt(0), null, value)));
                Thread.sleep(command.get("pause_ms").asLong());
                if (number % 20 == 0) {
                    long acked = sent.stream().filter(Future::isDone).count();
                    say(Map.of("event", "acked", "count", acked));
                }
            }
            return offsets(sent);
        }
    }

    private static Map<String, ?> offsets(List<Future<RecordMetadata>> sent) throws Exception {
        List<Long> offsets = new ArrayList<>();
        for (Future<RecordMetadata> each : sent) {
            offsets.add(each.get().offset());
        }
        return Map.of("offsets", offsets);
    }

    // -- consuming

    private static KafkaConsumer<byte[], byte[]> consumer(Map<String, Object> settings) {
        Map<String, Object> all = new HashMap<>(settings);
        all.put("bootstrap.servers", bootstrap);
        all.put("auto.offset.reset", "earliest");
        all.put("enable.auto.commit", false);
        all.put("reconnect.backoff.max.ms", 200);
        return new KafkaConsumer<>(all, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private static Map<String, ?> consume(JsonNode command) {
        var place = new TopicPartition(
                command.get("topic").asText(), command.path("partition").asInt(0));
        JsonNode begin = command.path("begin");
        int count = command.get("count").asInt();
        try (var consumer = consumer(Map.of())) {
            consumer.assign(List.of(place));
            if (begin.isNumber()) {
                consumer.seek(place, consumer.offsetsForTimes(Map.of(place, begin.asLong())).get(place).offset());
            } else if (begin.asText().equals("end")) {
                consumer.seekToEnd(List.of(place));
                consumer.position(place);
            } else {
                consumer.seekToBeginning(List.of(place));
            }
            say(Map.of("event", "ready"));
            List<Map<String, ?>> records = new ArrayList<>();
            long deadline = System.nanoTime() + PATIENCE.toNanos();
            while (records.size() < count && System.nanoTime() < deadline) {
                consumer.poll(Duration.ofMillis(200)).forEach(record -> records.add(asSaid(record)));
            }
            return Map.of("records", records);
        }
    }

    private static Map<String, ?> asSaid(ConsumerRecord<byte[], byte[]> record) {
        List<List<String>> headers = new ArrayList<>();
        for (Header each : record.headers()) {
            List<String> pair = new ArrayList<>();
            pair.add(each.key());
            pair.add(text(each.value()));
            headers.add(pair);
        }
        Map<String, Object> said = new LinkedHashMap<>();
        said.put("offset", record.offset());
        said.put("timestamp", record.timestamp());
        said.put("key", text(record.key()));
        said.put("value", text(record.value()));
        said.put("headers", headers);
        return said;
    }

    private static Map<String, ?> member(JsonNode command) {
        String topic = command.get("topic").asText();
        int timeout = command.get("session_timeout_ms").asInt();
        var consumer = consumer(Map.of(
                "group.id", command.get("group").asText(),
                "session.timeout.ms", timeout,
                "heartbeat.interval.ms", Math.min(1000, timeout / 4)));
        consumer.subscribe(List.of(topic), new ConsumerRebalanceListener() {
            @Override
            public void onPartitionsAssigned(Collection<TopicPartition> places) {
                say(Map.of("event", "assigned", "partitions", numbers(places)));
            }

            @Override
            public void onPartitionsRevoked(Collection<TopicPartition> places) {
                say(Map.of("event", "revoked", "partitions", numbers(places)));
            }
        });
        while (COMMANDS.isEmpty()) {
            var records = consumer.poll(Duration.ofMillis(100));
            for (TopicPartition place : records.partitions()) {
                long behind = 0;
                for (var record : records.records(place)) {
                    behind = record.offset() + 1;
                    say(Map.of(
                            "event", "record",
                            "partition", record.partition(),
                            "offset", record.offset(),
                            "value", text(record.value())));
                }
                try {
                    consumer.commitSync(Map.of(place, new OffsetAndMetadata(behind)));
                    say(Map.of("event", "committed", "partition", place.partition(), "offset", behind));
                } catch (KafkaException error) {
                    say(Map.of("event", "not committed", "error", error.toString()));
                }
            }
        }
        consumer.close();
        return Map.of("left", true);
    }

    private static List<Integer> numbers(Collection<TopicPartition> places) {
        return places.stream().map(TopicPartition::partition).toList();
    }

    private static Map<String, ?> lag(JsonNode command) throws Exception {
        try (var consumer = consumer(Map.of("group.id", command.get("group").asText()))) {
            String topic = command.get("topic").asText();
            Set<TopicPartition> places = new java.util.HashSet<>();
            consumer.partitionsFor(topic).forEach(
                    each -> places.add(new TopicPartition(topic, each.partition())));
            var starts = consumer.beginningOffsets(places);
            var ends = consumer.endOffsets(places);
            var committed = consumer.committed(places);
            Map<String, Long> lag = new HashMap<>();
            for (TopicPartition place : places) {
                OffsetAndMetadata found = committed.get(place);
                long at = found == null ? starts.get(place) : found.offset();
                lag.put(String.valueOf(place.partition()), ends.get(place) - at);
            }
            return Map.of("lag", lag);
        }
    }

    // -- looking after

    private interface Administration {
        Map<String, ?> perform(Admin admin) throws Exception;
    }

    private static Map<String, ?> administer(Administration what) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            return what.perform(admin);
        }
    }

    private static Map<String, ?> create(JsonNode command) throws Exception {
        Map<String, String> config = new HashMap<>();
        command.get("config").fields().forEachRemaining(
                each -> config.put(each.getKey(), each.getValue().asText()));
        var wanted = new NewTopic(
                command.get("topic").asText(), command.get("partitions").asInt(), (short) 1);
        return administer(admin -> {
            admin.createTopics(List.of(wanted.configs(config))).all().get();
            return Map.of();
        });
    }

    private static Map<String, ?> describe(JsonNode command) throws Exception {
        String topic = command.get("topic").asText();
        return administer(admin -> {
            if (!admin.listTopics().names().get().contains(topic)) {
                return Map.of("partitions", 0);
            }
            var known = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
            var resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
            var found = admin.describeConfigs(List.of(resource)).all().get().get(resource);
            Map<String, String> config = new HashMap<>();
            command.get("names").forEach(
                    name -> config.put(name.asText(), found.get(name.asText()).value()));
            return Map.of("partitions", known.partitions().size(), "config", config);
        });
    }

    private static Map<String, ?> alter(JsonNode command) throws Exception {
        List<AlterConfigOp> changes = new ArrayList<>();
        command.get("config").fields().forEachRemaining(each -> changes.add(new AlterConfigOp(
                new ConfigEntry(each.getKey(), each.getValue().asText()), AlterConfigOp.OpType.SET)));
        var resource = new ConfigResource(ConfigResource.Type.TOPIC, command.get("topic").asText());
        Map<ConfigResource, Collection<AlterConfigOp>> all = Map.of(resource, changes);
        return administer(admin -> {
            admin.incrementalAlterConfigs(all).all().get();
            return Map.of();
        });
    }

    private static Map<String, ?> grow(JsonNode command) throws Exception {
        var wanted = NewPartitions.increaseTo(command.get("partitions").asInt());
        return administer(admin -> {
            admin.createPartitions(Map.of(command.get("topic").asText(), wanted)).all().get();
            return Map.of();
        });
    }

    private static Map<String, ?> delete(JsonNode command) throws Exception {
        return administer(admin -> {
            admin.deleteTopics(List.of(command.get("topic").asText())).all().get();
            return Map.of();
        });
    }

    private static Map<String, ?> group(JsonNode command) throws Exception {
        String group = command.get("group").asText();
        return administer(admin -> {
            var found = admin.describeConsumerGroups(List.of(group)).all().get().get(group);
            return Map.of(
                    "state", found.groupState().toString(), "members", found.members().size());
        });
    }

    private static Map<String, ?> deleteGroup(JsonNode command) throws Exception {
        return administer(admin -> {
            admin.deleteConsumerGroups(List.of(command.get("group").asText())).all().get();
            return Map.of();
        });
    }

    private static byte[] bytes(JsonNode text) {
        return text == null || text.isNull() ? null : text.asText().getBytes(StandardCharsets.UTF_8);
    }

    private static String text(byte[] data) {
        return data == null ? null : new String(data, StandardCharsets.UTF_8);
    }
}
