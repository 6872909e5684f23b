// One vitest project: unit (TypeScript and addon), worker (threads and teardown), e2e (the bundled models through the public face).
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/unit/**/*.test.ts", "test/worker/**/*.test.ts", "test/e2e/**/*.test.ts"],
    pool: "forks",
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // Models are small but native threads spin: more files at once than cores makes everything slower.
    maxWorkers: 2,
    // What is compiled is kept in node_modules: under a sanitizer, compiling it again takes longer than running it.
    experimental: { fsModuleCache: true },
  },
});
