// Prints each MessagePack file given as one line of JSON; whole numbers of 64 bits keep all their digits.
import { decode } from "@msgpack/msgpack";
import { readFileSync } from "node:fs";

for (const path of process.argv.slice(2)) {
  const message = decode(readFileSync(path), { useBigInt64: true });
  const text = JSON.stringify(message, (_, value) => (typeof value === "bigint" ? `bigint:${value}` : value));
  console.log(text.replace(/"bigint:(-?\d+)"/g, "$1"));
}
