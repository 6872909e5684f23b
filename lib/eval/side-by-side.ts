// Work on a list, some of it at a time.

/**
 * Calls `work` for every element, `limit` of them at a time. Ends with the first failure, after what was running has ended. The result is the time that all of
 * it took over the sum of the times that `work` tells: what a time measured beside others is to be multiplied by, so that the times add up.
 */
export async function sideBySide<T>(list: readonly T[], limit: number, work: (one: T, i: number) => Promise<number>): Promise<number> {
  const start = performance.now();
  const failures: unknown[] = [];
  let next = 0;
  let sum = 0;
  const worker = async (): Promise<void> => {
    for (let one = list[next]; one !== undefined && failures.length === 0; one = list[next]) {
      try {
        const ms = await work(one, next++);
        sum += ms;
      } catch (error) {
        failures.push(error);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(limit, list.length) }, worker));
  if (failures.length > 0) throw failures[0];
  return limit === 1 || sum === 0 ? 1 : (performance.now() - start) / sum;
}
