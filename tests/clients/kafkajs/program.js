// kafkajs. Commands come in and answers go out as python/agent.py says.
"use strict";

const readline = require("node:readline");
const kafkajs = require("kafkajs");
const { Kafka, CompressionTypes, CompressionCodecs, ConfigResourceTypes, logLevel } = kafkajs;
CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");

const PATIENCE_MS = 60_000;
const CODECS = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy };

const kafka = new Kafka({
  clientId: "kafkajs",
  brokers: [process.argv[2]],
  connectionTimeout: PATIENCE_MS,
  requestTimeout: PATIENCE_MS,
  logLevel: logLevel.ERROR,
  logCreator: () => ({ label, log }) => console.error(label, log.message, log.error || ""),
  retry: { initialRetryTime: 100, maxRetryTime: 1000, retries: 60 },
});

class Unsupported extends Error {}

const say = (message) => process.stdout.write(JSON.stringify(message) + "\n");
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const text = (data) => (data === null || data === undefined ? null : data.toString());

let calledAway = () => {};

async function using(client, work) {
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.disconnect();
  }
}

const administer = (work) => using(kafka.admin(), work);

// Kafka's headers are a list; kafkajs has an object, with lists for what is there twice.
function toHeaders(pairs) {
  const headers = {};
  for (const [name, value] of pairs || []) {
    headers[name] = name in headers ? [].concat(headers[name], value) : value;
  }
  return headers;
}

function fromHeaders(headers) {
  return Object.entries(headers || {}).flatMap(([name, value]) =>
    [].concat(value).map((each) => [name, text(each)]));
}

const commands = {
  async about() {
    return { client: "kafkajs", version: require("kafkajs/package.json").version };
  },

  // -- producing

  async produce({ topic, records, codec = "none", idempotent = false }) {
    if (!(codec in CODECS)) {
      throw new Unsupported(`${codec}: not in this client`);
    }
    const messages = records.map((each) => ({
      partition: each.partition,
      key: each.key ?? null,
      value: each.value,
      headers: toHeaders(each.headers),
    }));
    const producer = kafka.producer({ idempotent, allowAutoTopicCreation: false });
    const told = await using(producer, () =>
      producer.send({ topic, messages, compression: CODECS[codec] }));
    const next = {};
    for (const { partition, baseOffset } of told) {
      next[partition] = Number(baseOffset);
    }
    return { offsets: records.map((each) => next[each.partition]++) };
  },

  async stream({ topic, count, pause_ms, partition = 0, idempotent = true }) {
    const producer = kafka.producer({
      idempotent,
      allowAutoTopicCreation: false,
      maxInFlightRequests: 1,
    });
    const offsets = [];
    return using(producer, async () => {
      for (let number = 0; number < count; number++) {
        const messages = [{ partition, value: `${number}` }];
        const [told] = await producer.send({ topic, messages });
        offsets.push(Number(told.baseOffset));
        if (number % 20 === 0) {
          say({ event: "acked", count: offsets.length });
        }
        await sleep(pause_ms);
      }
      return { offsets };
    });
  },

  // -- consuming

  async consume({ topic, count, begin = "start", partition = 0 }) {
    let offset;
    if (begin !== "start") {
      offset = await administer(async (admin) => {
        const places =
          begin === "end"
            ? await admin.fetchTopicOffsets(topic)
            : await admin.fetchTopicOffsetsByTimestamp(topic, begin);
        return places.find((each) => each.partition === partition).offset;
      });
    }
    // It has no consumer without a group.
    const groupId = `unused-${process.pid}-${Date.now()}`;
    const consumer = kafka.consumer({ groupId });
    const records = [];
    await using(consumer, async () => {
      await consumer.subscribe({ topic, fromBeginning: true });
      await new Promise((done, fail) => {
        const timer = setTimeout(done, PATIENCE_MS);
        consumer.on(consumer.events.CRASH, ({ payload }) => fail(payload.error));
        consumer.on(consumer.events.GROUP_JOIN, () => say({ event: "ready" }));
        const eachMessage = async ({ partition: from, message }) => {
          if (from === partition && records.length < count) {
            records.push(message);
          }
          if (records.length >= count) {
            clearTimeout(timer);
            done();
          }
        };
        consumer.run({ autoCommit: false, eachMessage }).catch(fail);
        if (offset !== undefined) {
          consumer.seek({ topic, partition, offset });
        }
      });
      await consumer.stop();
    });
    return {
      records: records.map((each) => ({
        offset: Number(each.offset),
        timestamp: Number(each.timestamp),
        key: text(each.key),
        value: text(each.value),
        headers: fromHeaders(each.headers),
      })),
    };
  },

  async member({ topic, group, session_timeout_ms }) {
    const away = new Promise((done) => { calledAway = done; });
    const consumer = kafka.consumer({
      groupId: group,
      sessionTimeout: session_timeout_ms,
      heartbeatInterval: Math.min(1000, session_timeout_ms / 4),
      maxWaitTimeInMs: 200,
      allowAutoTopicCreation: false,
    });
    let owned = [];
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
      say({ event: "revoked", partitions: owned });
      owned = payload.memberAssignment[topic] || [];
      say({ event: "assigned", partitions: owned });
    });
    consumer.on(consumer.events.COMMIT_OFFSETS, ({ payload }) => {
      for (const { partitions } of payload.topics) {
        for (const { partition, offset } of partitions) {
          say({ event: "committed", partition, offset: Number(offset) });
        }
      }
    });
    const eachMessage = async ({ partition, message }) => {
      const offset = Number(message.offset);
      say({ event: "record", partition, offset, value: text(message.value) });
    };
    return using(consumer, async () => {
      await consumer.subscribe({ topic, fromBeginning: true });
      await consumer.run({ autoCommitThreshold: 1, eachMessage });
      await away;
      return { left: true };
    });
  },

  async leave() {
    return {};
  },

  async lag({ topic, group }) {
    return administer(async (admin) => {
      const places = await admin.fetchTopicOffsets(topic);
      const [known] = await admin.fetchOffsets({ groupId: group, topics: [topic] });
      const lag = {};
      for (const { partition, low, high } of places) {
        const found = known && known.partitions.find((each) => each.partition === partition);
        const at = found && Number(found.offset) >= 0 ? Number(found.offset) : Number(low);
        lag[partition] = Number(high) - at;
      }
      return { lag };
    });
  },

  // -- looking after

  async create({ topic, partitions, config }) {
    const configEntries = Object.entries(config).map(([name, value]) => ({ name, value }));
    const topics = [{ topic, numPartitions: partitions, replicationFactor: 1, configEntries }];
    const isNew = await administer((admin) => admin.createTopics({ topics }));
    return isNew ? {} : { error: "TOPIC_ALREADY_EXISTS (told as false)" };
  },

  async describe({ topic, names }) {
    return administer(async (admin) => {
      if (!(await admin.listTopics()).includes(topic)) {
        return { partitions: 0 };
      }
      const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
      const resource = { type: ConfigResourceTypes.TOPIC, name: topic };
      const { resources } = await admin.describeConfigs({ resources: [resource] });
      const found = {};
      for (const { configName, configValue } of resources[0].configEntries) {
        found[configName] = configValue;
      }
      return {
        partitions: topics[0].partitions.length,
        config: Object.fromEntries(names.map((name) => [name, found[name]])),
      };
    });
  },

  async alter({ topic, config }) {
    const configEntries = Object.entries(config).map(([name, value]) => ({ name, value }));
    const resources = [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries }];
    await administer((admin) => admin.alterConfigs({ resources }));
    return {};
  },

  async grow({ topic, partitions }) {
    const topicPartitions = [{ topic, count: partitions }];
    await administer((admin) => admin.createPartitions({ topicPartitions }));
    return {};
  },

  async delete({ topic }) {
    await administer((admin) => admin.deleteTopics({ topics: [topic] }));
    return {};
  },

  async group({ group }) {
    const { groups } = await administer((admin) => admin.describeGroups([group]));
    return { state: groups[0].state, members: groups[0].members.length };
  },

  async delete_group({ group }) {
    await administer((admin) => admin.deleteGroups([group]));
    return {};
  },
};

async function answer({ do: name, ...rest }) {
  try {
    return await commands[name](rest);
  } catch (error) {
    if (error instanceof Unsupported) {
      return { unsupported: error.message };
    }
    console.error(error);
    return { error: error.type || error.message };
  }
}

let turn = Promise.resolve();
readline.createInterface({ input: process.stdin })
  .on("line", (line) => {
    calledAway();
    turn = turn.then(async () => say(await answer(JSON.parse(line))));
  })
  .on("close", () => {
    calledAway();
    turn.then(() => process.exit(0));
  });
